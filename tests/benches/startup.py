#!/usr/bin/env python3
"""How long a start takes over much data: gigabytes of log, millions of rows.

    tests/benches/startup.py [--log-gb 1] [--rows 1M] [--rounds 3] [--binary target/release/hourmark]

Needs the binary, and five times the log in free disk. Three nodes take events of so many (app, hour) rows until each node's log
has so many GB; they are told not to write rows out meanwhile, so that a start finds as much to do as it ever can. Then, so many
rounds each: all nodes are killed (SIGKILL) and started; all are stopped (SIGTERM), which writes rows out, and started. A start reads
the whole log; what is not written out it applies and writes out, so the first one after SIGKILL is told by itself. Measured is the
time from the start of the processes until every node says that it is ready, and until a linearizable question has its answer.
"""
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import side_by_side
from side_by_side import Results, count, cpu, harness

HOURS = 100
EVENTS = 4_000_000


def log_bytes(cluster):
    """Of the node that has most."""
    def of(directory):
        return sum(file.stat().st_blocks * 512 for file in pathlib.Path(directory, "log").rglob("*") if file.is_file())
    return max(of(node.data_dir) for node in cluster.nodes)


def fill(options, cluster):
    """Every row gets events; the log grows until it is large enough."""
    runs = sent = 0
    while runs == 0 or log_bytes(cluster) < options.log_gb * 1e9:
        events = EVENTS if runs else max(EVENTS, options.rows * 2)
        subprocess.run([options.binary, "bench", "--server", cluster.urls[runs % 3], "--prefix", "row", "--apps", str(options.rows // HOURS),
                        "--zipf", "0", "--hours", str(HOURS), "--first-hour", "2026-01-01T00", "--shuffle", "--seed", str(runs + 1),
                        "--format", "binary", "--events", str(events), "--warm-up", "0", "--no-verify", "-o", "json"],
                       check=True, stdout=subprocess.DEVNULL)
        runs, sent = runs + 1, sent + events
        side_by_side.say(f"{sent / 1e6:.0f} M events sent, {log_bytes(cluster) / 1e9:.2f} GB of log a node")


def start(cluster, how):
    """Stops all nodes and starts them; the seconds until they are ready and until they answer."""
    stopping = time.monotonic()
    for node in cluster.nodes:
        node.process.send_signal(how)
    for node in cluster.nodes:
        node.process.wait()
    stopped = time.monotonic() - stopping
    begun = time.monotonic()
    for node in cluster.nodes:
        node.start()
    waiting = list(cluster.nodes)
    while waiting:
        waiting = [node for node in waiting if harness.get(node.url + "/readyz", 1)[0] != 200]
        time.sleep(0.02)
    ready = time.monotonic() - begun
    app = "/v1/apps/row-" + "0" * max(4, len(str(cluster.apps - 1)))
    while harness.get(cluster.urls[0] + app + "/summary?from=2026-01-01&to=2026-01-10", 5)[0] != 200:
        time.sleep(0.02)
    answered = time.monotonic() - begun
    used = sum(cpu(node.process.pid) for node in cluster.nodes)
    return {"stop_s": stopped, "ready_s": ready, "answer_s": answered, "cpu_s": used, "log_gb": log_bytes(cluster) / 1e9}


def main():
    parser = side_by_side.parser(__doc__, base_port=24980)
    parser.add_argument("--log-gb", type=float, default=1.0)
    parser.add_argument("--rows", type=count, default="1M")
    options = parser.parse_args()
    harness.BINARY = side_by_side.hourmark(options.binary)
    if shutil.disk_usage(tempfile.gettempdir()).free < 5e9 * options.log_gb + 2e9:
        side_by_side.skip("room on the disk of the temporary directory", "set TMPDIR, or take a smaller --log-gb")
    results = Results(options)
    results.notes |= {"log GB a node": options.log_gb, "rows": options.rows}
    keep = ("--write-out-interval", "1h", "--log-bytes-max", "1024GiB")
    with tempfile.TemporaryDirectory() as directory, harness.Cluster(base_port=options.base_port, directory=directory, extra=keep) as cluster:
        cluster.apps = options.rows // HOURS
        fill(options, cluster)
        for number in range(options.rounds + 1):
            results.add("after SIGKILL" if number else "nothing written out", start(cluster, signal.SIGKILL))
        for _ in range(options.rounds):
            results.add("after SIGTERM", start(cluster, signal.SIGTERM))
    results.finish()


if __name__ == "__main__":
    main()
