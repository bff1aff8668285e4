"""Real node processes for the acceptance runs: start, kill, restart, ask. Standard library only."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("HOURMARK_BINARY", os.path.join(ROOT, "target/release/hourmark"))


def say(text):
    print(text, file=sys.stderr, flush=True)


def get(url, timeout=30):
    """(status, parsed body); status 0 if there was no answer."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        try:
            return error.code, json.load(error)
        except ValueError:
            return error.code, None
    except (OSError, ValueError):
        return 0, None


class Node:
    def __init__(self, number, http, data_dir, join, extra=()):
        self.number, self.http, self.join, self.extra = number, http, join, list(extra)
        self.data_dir, self.process = data_dir, None
        self.url = f"http://127.0.0.1:{http}"
        self.log = open(os.path.join(os.path.dirname(data_dir), f"node-{number}.log"), "ab")

    def start(self):
        command = [BINARY, "start", "--data-dir", self.data_dir, "--http-addr", f"127.0.0.1:{self.http}",
                   "--cluster-addr", f"127.0.0.1:{self.http + 1}", "--node-name", f"node-{self.number}", *self.extra]
        for address in self.join:
            command += ["--join", address]
        self.process = subprocess.Popen(command, stderr=self.log, stdout=self.log)

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        return self.process.wait()


class Cluster:
    """`nodes` real processes; the first makes the cluster, the others join it."""

    def __init__(self, nodes=3, base_port=24600, directory=None, extra=()):
        self.directory = directory or tempfile.mkdtemp(prefix="hourmark-acceptance-")
        first = f"127.0.0.1:{base_port + 1}"
        self.nodes = [Node(i + 1, base_port + 10 * i, os.path.join(self.directory, f"data-{i + 1}"),
                           [] if i == 0 else [first], extra) for i in range(nodes)]
        say(f"data and logs in {self.directory}")

    def __enter__(self):
        for node in self.nodes:
            node.start()
        self.wait_whole()
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            if node.process and node.process.poll() is None:
                node.kill(signal.SIGTERM)

    @property
    def urls(self):
        return [node.url for node in self.nodes]

    def ask(self, path, timeout=30):
        """The first answer below 500 of any node."""
        deadline = time.monotonic() + 60
        while True:
            for url in self.urls:
                status, body = get(url + path, timeout)
                if 0 < status < 500:
                    return status, body
            if time.monotonic() > deadline or all(node.process and node.process.poll() is not None for node in self.nodes):
                raise SystemExit(f"no node answers {path}; their logs are in {self.directory}")
            time.sleep(0.2)

    def is_whole(self, count):
        status, body = self.ask("/v1/cluster")
        alive = sum(node["alive"] for node in body["nodes"])
        return status == 200 and alive == count and all(
            p["leader"] is not None and len(p["replicas"]) == min(count, 3) for p in body["partitions"])

    def wait_whole(self, count=None, seconds=90):
        deadline = time.monotonic() + seconds
        while not self.is_whole(count or len(self.nodes)):
            if time.monotonic() > deadline:
                raise SystemExit(f"the cluster did not become whole: {self.ask('/v1/cluster')[1]}")
            time.sleep(0.2)

    def digests_agree(self, seconds=60):
        """Waits until all events are stored and all replicas have equal digests; returns them."""
        deadline = time.monotonic() + seconds
        while any(partition["lag_events"] for partition in self.ask("/v1/cluster")[1]["partitions"]):
            if time.monotonic() > deadline:
                raise SystemExit("events stay out of the stored rollups")
            time.sleep(0.2)
        while True:
            digests = [get(url + "/v1/digest") for url in self.urls]
            partitions = [body["partitions"] for status, body in digests if status == 200]
            if len(partitions) == len(digests) and all(p == partitions[0] for p in partitions):
                return partitions[0]
            if time.monotonic() > deadline:
                raise SystemExit(f"replicas differ: {digests}")
            time.sleep(0.5)


class Killer(threading.Thread):
    """Kills a random node with SIGKILL every few seconds and starts it again."""

    def __init__(self, cluster, random, pause=(2.0, 5.0), down=(0.2, 2.0)):
        super().__init__(daemon=True)
        self.cluster, self.random, self.pause, self.down = cluster, random, pause, down
        self.kills, self.stopped = 0, threading.Event()

    def run(self):
        while not self.stopped.wait(self.random.uniform(*self.pause)):
            node = self.random.choice(self.cluster.nodes)
            node.kill()
            self.kills += 1
            time.sleep(self.random.uniform(*self.down))
            node.start()

    def stop(self):
        self.stopped.set()
        self.join()


def quoted(app):
    return urllib.parse.quote(app, safe="")


QUANTILES = "0.5,0.9,0.95,0.99,0.999"


def answers(cluster, levels=("hour", "day", "app")):
    """Everything the cluster answers, in the rows that compare.py reads."""
    apps, cursor = [], ""
    while True:
        _, page = cluster.ask(f"/v1/apps?limit=1000{cursor}")
        apps += page["apps"]
        if not page["next"]:
            break
        cursor = "&cursor=" + urllib.parse.quote(page["next"], safe="")
    for app in apps:
        name = app["app_id"]
        hours, cursor = [], ""
        while True:
            _, page = cluster.ask(f"/v1/apps/{quoted(name)}/hours?from=1970-01-01&to=2261-12-31&q={QUANTILES}{cursor}")
            hours += page["hours"]
            if not page["next"]:
                break
            cursor = "&cursor=" + urllib.parse.quote(page["next"], safe="")
        for hour in hours:
            yield row("hour", name, hour["hour"][:10], int(hour["hour"][11:13]), hour)
        if "day" in levels:
            for day in sorted({hour["hour"][:10] for hour in hours}):
                _, summary = cluster.ask(f"/v1/apps/{quoted(name)}/summary?from={day}&to={next_day(day)}&q={QUANTILES}")
                yield row("day", name, day, None, summary)
        if "app" in levels and hours:
            _, summary = cluster.ask(f"/v1/apps/{quoted(name)}/summary?from=1970-01-01&to=2261-12-31&q={QUANTILES}")
            yield row("app", name, None, None, summary)


def next_day(day):
    import datetime
    return (datetime.date.fromisoformat(day) + datetime.timedelta(days=1)).isoformat()


def row(level, app, date, hour, numbers):
    return {"level": level, "app_id": app, "date": date, "hour": hour, "count": numbers["count"],
            "avg": numbers["average_ms"], "min": numbers["min_ms"], "max": numbers["max_ms"], "sum": numbers["sum_ms"],
            "q": {str(q["q"]): q["value_ms"] for q in numbers["quantiles"]}}
