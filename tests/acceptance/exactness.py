#!/usr/bin/env python3
"""Sends a set of events to three real nodes and compares every answer with the exact truth.

    tests/acceptance/exactness.py EVENTS --tools DIR [--kill] [--seed N] [--no-shuffle]

EVENTS: NDJSON, plain or .zst. DIR: holds oracle.py and compare.py. Parts of the file go to different nodes, shuffled and in
parallel, each sent by `hourmark send` (safe retries). With --kill a random node is killed with SIGKILL every few seconds and
started again meanwhile. Exit 0: counts, minima, maxima exact, averages within 1e-9, quantiles within 1 %, nothing lost,
nothing doubled, and all replicas have the same digest.
"""
import argparse
import io
import json
import os
import random
import subprocess
import sys
import time

import harness
from harness import BINARY, Cluster, Killer, say

PARTS = 6


def lines_of(path):
    if path.endswith(".zst"):
        import zstandard
        stream = zstandard.ZstdDecompressor().stream_reader(open(path, "rb"), read_across_frames=True)
        return list(io.BufferedReader(stream, 1 << 20))
    return list(open(path, "rb"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events")
    parser.add_argument("--tools", required=True)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-shuffle", action="store_true")
    parser.add_argument("--base-port", type=int, default=24600)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    lines = lines_of(arguments.events)
    if not arguments.no_shuffle:
        chance.shuffle(lines)
    with Cluster(base_port=arguments.base_port) as cluster:
        directory = cluster.directory
        killer = Killer(cluster, chance)
        if arguments.kill:
            killer.start()
        begun = time.monotonic()
        senders = []
        for part in range(PARTS):
            path = os.path.join(directory, f"part-{part}.ndjson")
            with open(path, "wb") as file:
                for line in lines[part::PARTS]:
                    file.write(line if line.endswith(b"\n") else line + b"\n")
            urls = cluster.urls[part % 3:] + cluster.urls[:part % 3]
            command = [BINARY, "send", path, "-o", "json", "--timeout", "120"]
            if arguments.kill:
                command += ["--body-bytes", "20000", "--connections", "1"]
            for url in urls:
                command += ["--server", url]
            senders.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
        summaries = []
        for sender in senders:
            out, _ = sender.communicate()
            if sender.returncode not in (0, 1):
                raise SystemExit(f"a sender failed with {sender.returncode}: {out!r}")
            summaries.append(json.loads(out))
        took = time.monotonic() - begun
        if arguments.kill:
            killer.stop()
        cluster.wait_whole()
        total = {key: sum(summary[key] for summary in summaries) for key in ("accepted", "duplicate", "rejected")}
        say(f"sent {len(lines)} lines in {took:.1f} s with {killer.kills} kills: {total}")
        actual = os.path.join(directory, "actual.jsonl")
        with open(actual, "w") as file:
            for row in harness.answers(cluster):
                file.write(json.dumps(row) + "\n")
        digests = cluster.digests_agree()
        say(f"all replicas have the same digests: {json.dumps(digests)}")
    truth = os.path.join(directory, "truth.jsonl")
    levels = "hour,day,app"
    subprocess.run([sys.executable, os.path.join(arguments.tools, "oracle.py"), arguments.events, "-o", truth,
                    "--levels", levels], check=True)
    compared = subprocess.run([sys.executable, os.path.join(arguments.tools, "compare.py"), truth, actual, "--alpha", "0.01",
                               "--clamped", "--monotone", "--levels", levels])
    print(json.dumps({"seconds": took, "kills": killer.kills, **total}))
    sys.exit(compared.returncode)


main()
