#!/usr/bin/env python3
"""How much of what this machine could do is left when events are replicated: one process without network and log, and a cluster.

    tests/benches/limit.py [--events 10M] [--rounds 3] [--binary target/release/hourmark]

Needs nothing but the binary. `hourmark bench local` reads the same NDJSON from memory, routes, encodes, decodes and folds it with the
product's own code, a thread for each core; the cluster of three nodes does the same, and takes it over HTTP, replicates it three times,
fsyncs it and answers, while the client shares its cores. The cluster is warmed up first, as `hourmark bench` does; the one process has
little to warm up.
"""
import json
import subprocess

import side_by_side
from side_by_side import Results, bench, count, ingest


def local(options):
    run = subprocess.run([options.binary, "bench", "local", "--events", str(options.events), "-o", "json"], check=True,
                         stdout=subprocess.PIPE, text=True)
    report = json.loads(run.stdout)
    return {"events": report["events"], "events_per_s": report["events_per_second"], "cpu_us": report["cpu_us_per_event"]}


def main():
    parser = side_by_side.parser(__doc__, base_port=24940)
    parser.add_argument("--events", type=count, default="10M")
    options = parser.parse_args()
    side_by_side.hourmark(options.binary)
    results = Results(options)
    flags = ["--spawn", 3, "--base-port", options.base_port, "--events", options.events]
    results.turns({"in one process": lambda: local(options), "cluster": lambda: ingest(bench(options.binary, *flags))})
    results.ratio_goal("replicated and fsynced against neither", "cluster", "in one process", "events_per_s", 0.5)
    results.finish()


if __name__ == "__main__":
    main()
