"""Clients that know what they were told, and the verdict on what the cluster says in the end.

Each request is acked, refused or unknown. A request that failed is unknown, never absent: it may have been counted."""
import http.client
import json
import random
import threading
import time

HOURS = ["2026-01-05T22", "2026-01-05T23", "2026-01-06T00"]
TIMEOUT = 5
# How far a producer goes on behind a request without an answer: the newest 4,096 sequences are remembered.
BEHIND_MAX = 4000


class Numbers:
    """Count, sum, minimum and maximum in ms of some events. Values are whole ms, so sums are exact."""

    def __init__(self):
        self.count, self.sum, self.min, self.max = 0, 0, None, None

    def add(self, value):
        self.count, self.sum = self.count + 1, self.sum + value
        self.min = value if self.min is None else min(self.min, value)
        self.max = value if self.max is None else max(self.max, value)

    def of(self, answer):
        return (self.count, self.sum, self.min, self.max) == (
            answer["count"], answer["sum_ms"], answer["min_ms"], answer["max_ms"])


class Request:
    def __init__(self, sequence, events):
        self.sequence, self.events = sequence, events
        self.body = "".join(f'{{"app_id":"{app}","timestamp":"{hour}:30:00Z","response_time_ms":{value}}}\n'
                            for app, hour, value in events).encode()


class History:
    """What was sent and what was acked, by app and hour; and every broken promise."""

    def __init__(self):
        self.lock = threading.Lock()
        self.sent, self.acked, self.violations = {}, {}, []
        self.requests = self.unknown = self.reads = self.failed_reads = 0

    def note(self, table, request):
        with self.lock:
            for app, hour, value in request.events:
                table.setdefault((app, hour), Numbers()).add(value)

    def count(self, table, key):
        with self.lock:
            return table[key].count if key in table else 0

    def violated(self, text):
        with self.lock:
            self.violations.append(text)


def ask(host, method, path, body=None, headers=None, timeout=TIMEOUT):
    """(status, body); status 0 if there was no answer."""
    connection = http.client.HTTPConnection(host, 3600, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError):
        return 0, None
    finally:
        connection.close()


class Client(threading.Thread):
    def __init__(self, name, hosts, history, rng):
        super().__init__(daemon=True, name=name)
        self.hosts, self.history, self.rng, self.stopped = hosts, history, rng, threading.Event()

    def run(self):
        while not self.stopped.wait(self.rng.uniform(0, 0.02)):
            self.turn()


class Producer(Client):
    """Sends events of its own apps. With an identity it may send a request again, and must be counted once."""

    def __init__(self, name, hosts, history, rng, identified):
        super().__init__(name, hosts, history, rng)
        self.identified, self.sequence, self.unknown = identified, 0, []

    def turn(self):
        if self.identified and self.unknown and self.sequence - self.unknown[0].sequence >= BEHIND_MAX:
            if self.send(self.unknown[0]):
                self.unknown.pop(0)
            return
        request = self.next_request()
        self.history.note(self.history.sent, request)
        # Some requests are sent again at once, some are left unknown until the end.
        patience = self.rng.choice([1, 1, 30]) if self.identified else 1
        for _ in range(patience):
            if self.send(request):
                if self.rng.random() < 0.05 and self.identified:
                    self.send(request, again=True)
                return
            if self.stopped.wait(self.rng.uniform(0.01, 0.3)):
                break
        self.unknown.append(request)
        self.history.unknown += 1

    def next_request(self):
        count = self.rng.choice([1, 10, 100, 300])
        events = [(f"{self.name}-{self.rng.randrange(5)}", self.rng.choice(HOURS), self.rng.randrange(10_000))
                  for _ in range(count)]
        self.sequence += 1
        return Request(self.sequence, events)

    def send(self, request, again=False):
        headers = {"Content-Type": "application/x-ndjson"}
        if self.identified:
            headers |= {"Hourmark-Producer": self.name, "Hourmark-Sequence": str(request.sequence)}
        status, answer = ask(self.rng.choice(self.hosts), "POST", "/v1/events", request.body, headers)
        self.history.requests += 1
        if status == 200:
            if answer["accepted"] + answer["duplicate"] != len(request.events) or (again and answer["accepted"]):
                self.history.violated(f"{self.name} {request.sequence} of {len(request.events)} events was answered {answer}")
            if not again:
                self.history.note(self.history.acked, request)
            return True
        if status and status not in (429, 503):
            self.history.violated(f"{self.name} {request.sequence} was answered {status} {answer}")
        return False

    def settle(self, deadline):
        """Sends what is unknown until it is acked."""
        while self.identified and self.unknown:
            if self.send(self.unknown[-1]):
                self.unknown.pop()
            elif time.monotonic() > deadline:
                self.history.violated(f"{self.name} {self.unknown[-1].sequence} is still not taken after all faults")
                return


class Reader(Client):
    """Reads what producers send: a linearizable answer holds all that was acked before, and nothing holds more than was sent."""

    def turn(self):
        with self.history.lock:
            keys = list(self.history.sent)
        if not keys:
            return
        key, consistency = self.rng.choice(keys), self.rng.choice(["linearizable", "linearizable", "local"])
        before = self.history.count(self.history.acked, key)
        status, answer = ask(self.rng.choice(self.hosts), "GET", f"/v1/apps/{key[0]}/hours/{key[1]}?consistency={consistency}")
        self.history.reads += 1
        if status not in (200, 404):
            self.history.failed_reads += 1
            if status and status not in (429, 503):
                self.history.violated(f"reading {key} was answered {status} {answer}")
            return
        count = answer["count"] if status == 200 else 0
        if count > self.history.count(self.history.sent, key):
            self.history.violated(f"{key} has {count} events, more than were sent")
        if consistency == "linearizable" and count < before:
            self.history.violated(f"{key} has {count} events after {before} were acked")


def verdict(cluster, producers, history):
    """Compares everything that was sent with what the cluster says."""
    for producer in producers:
        for key in sorted(key for key in history.sent if key[0].rsplit("-", 1)[0] == producer.name):
            status, answer = cluster.ask(f"/v1/apps/{key[0]}/hours/{key[1]}")
            count = answer["count"] if status == 200 else 0
            sent, acked = history.sent[key], history.acked.get(key, Numbers())
            if producer.identified and not (status == 200 and sent.of(answer)):
                history.violated(f"{key} should be {vars(sent)}, is {answer}")
            if not acked.count <= count <= sent.count:
                history.violated(f"{key} has {count} events, {acked.count} were acked and {sent.count} sent")


def clients(hosts, history, seed):
    """Producers with and without identity, and readers."""
    def rng(name):
        return random.Random(f"{seed} {name}")
    producers = [Producer(f"identified-{i}-{seed}", hosts, history, rng(i), True) for i in range(4)]
    producers += [Producer(f"anonymous-{i}-{seed}", hosts, history, rng(-i - 1), False) for i in range(2)]
    readers = [Reader(f"reader-{i}", hosts, history, rng(f"r{i}")) for i in range(2)]
    return producers, readers
