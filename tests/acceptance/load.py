"""Load that knows what was acked: small requests with events of all partitions, safe retries."""
import threading
import time
import urllib.error
import urllib.request
import uuid

APPS = [f"app-{i}" for i in range(60)]
HOUR = "2026-01-05T10"


def post(url, producer, sequence, timeout):
    lines = "".join(f'{{"app_id":"{app}","timestamp":"{HOUR}:15:00Z","response_time_ms":1.5}}\n' for app in APPS)
    request = urllib.request.Request(url + "/v1/events", data=lines.encode(), headers={
        "Content-Type": "application/x-ndjson", "Hourmark-Producer": producer, "Hourmark-Sequence": str(sequence)})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status == 200
    except (urllib.error.HTTPError, OSError):
        return False


class Load(threading.Thread):
    def __init__(self, urls):
        super().__init__(daemon=True)
        self.urls, self.producer = urls, f"failover-{uuid.uuid4()}"
        self.acked, self.times, self.stopped = 0, [], threading.Event()

    def run(self):
        turn = 0
        while not self.stopped.is_set():
            begun = time.monotonic()
            while not post(self.urls[turn % len(self.urls)], self.producer, self.acked, 3):
                turn += 1
                time.sleep(0.02)
            self.acked += 1
            turn += 1
            self.times.append((begun, time.monotonic()))

    def stop(self):
        self.stopped.set()
        self.join()


def count_all(cluster, at_least=0, exactly=None):
    """Asks every app's count linearizably and compares it with the acked requests."""
    for app in APPS:
        _, answer = cluster.ask(f"/v1/apps/{app}/hours/{HOUR}")
        if answer["count"] < at_least or exactly not in (None, answer["count"]):
            raise SystemExit(f"{app} has {answer['count']} events, {exactly or at_least} were acked")
