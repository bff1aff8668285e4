#!/usr/bin/env python3
"""How long answers take: acks at half of the highest rate, reads while events pour in, summaries that nobody asked for before.

    tests/benches/latency.py [--seconds 8] [--rounds 3] [--only acks|reads|cold] [--partitions 3] [--binary FILE]

Needs nothing but the binary. Acks: three nodes take NDJSON in requests of 10,000 (and 1,000) events as fast as they can, then half
as many a second; there a request's latency counts from when it was due. The time that the same disk takes to sync 64 KiB stands beside
it. Reads: while three nodes take in as much as they can, all of it events of the running hour, that hour of apps drawn at
random is asked for linearizably, 200 times a second of any node; `--partitions 1` is what `hourmark dev` makes on two cores. Cold: all
nodes are started anew over 720 hours of 100 apps, and the summary of all hours is asked for once for each app; nothing is in the
nodes' memory, the system may have the files in its.
"""
import datetime
import http.client
import json
import signal
import subprocess
import tempfile
import time

import side_by_side
from side_by_side import Results, bench, harness, ingest


def acks(options, results):
    for size, connections in ((10_000, 12), (1000, 64)):
        flags = ["--spawn", 3, "--base-port", options.base_port, "--request-events", size, "--connections", connections]
        name = f"requests of {size:,}"
        results.turns({f"{name}, highest rate": lambda: ingest(bench(options.binary, *flags, "--events", "4M"))})
        rate = int(results.median(f"{name}, highest rate", "events_per_s") / 2)
        paced = ["--rate", rate, "--events", rate * options.seconds]
        results.turns({f"{name}, half of it": lambda: ingest(bench(options.binary, *flags, *paced))})
        for measure, bound in (("p50_ms", 10), ("p99_ms", 40)):
            results.goal(f"ack {measure} of {name} at half the rate", results.median(f"{name}, half of it", measure), bound, is_at_least=False)


def reads(options, results):
    hour = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H")
    servers = lambda cluster: [flag for url in cluster.urls for flag in ("--server", url)]

    def under_load():
        flags = ("--max-future", "off", "--partitions", str(options.partitions))
        with tempfile.TemporaryDirectory() as directory, \
                harness.Cluster(base_port=options.base_port, directory=directory, extra=flags) as cluster:
            load = [options.binary, "bench", *servers(cluster), "--prefix", "now", "--hours", "1", "--first-hour", hour, "--late", "0",
                    "--events", str(options.seconds * 5) + "M", "--request-events", "10k", "--warm-up", "0", "--no-verify", "-o", "json"]
            sender = subprocess.Popen(load, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            while not cluster.ask("/v1/apps?limit=1000")[1]["apps"]:
                time.sleep(0.05)
            time.sleep(0.5)
            report = bench_query(options, *servers(cluster), "--mix", "hour=1", "--connections", 16, "--rate", 200,
                                 "--duration", f"{options.seconds // 2}s")
            if sender.poll() is not None:
                raise SystemExit("the load ended before the reads did: take more --seconds")
            taken = json.loads(sender.communicate()[0])
        return {"p50_ms": report["latency"]["p50_ms"], "p99_ms": report["latency"]["p99_ms"],
                "reads_per_s": report["questions_per_second"], "events_per_s": taken["events_per_second"]}

    name = f"reads under full ingest, partitions {options.partitions}"
    results.turns({name: under_load})
    results.goal("p99 ms of reads of the running hour", results.median(name, "p99_ms"), 50, is_at_least=False)


def bench_query(options, *flags):
    run = subprocess.run([options.binary, "bench", "query", *map(str, flags), "-o", "json"], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout)


def cold(options, results):
    apps, hours = 100, 720
    with tempfile.TemporaryDirectory() as directory, harness.Cluster(base_port=options.base_port, directory=directory) as cluster:
        first = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours + 4)
        subprocess.run([options.binary, "bench", "--server", cluster.urls[0], "--prefix", "cold", "--apps", str(apps), "--zipf", "0",
                        "--hours", str(hours), "--first-hour", first.strftime("%Y-%m-%dT%H"), "--late", "0", "--events", "10M",
                        "--warm-up", "0", "--no-verify", "-o", "json"], check=True, stdout=subprocess.DEVNULL)
        cluster.digests_agree()
        _, page = cluster.ask(f"/v1/apps?prefix=cold&limit={apps}")

        def restarted():
            for node in cluster.nodes:
                node.kill(signal.SIGTERM)
            for node in cluster.nodes:
                node.start()
            cluster.wait_whole()
            time.sleep(2)
            connection, latencies, covered = http.client.HTTPConnection("127.0.0.1", cluster.nodes[0].http), [], []
            connection.request("GET", "/readyz")
            connection.getresponse().read()
            for app in page["apps"]:
                begun = time.perf_counter()
                connection.request("GET", f"/v1/apps/{app['app_id']}/summary?from=1970-01-01&to=2261-12-31")
                answer = json.loads(connection.getresponse().read())
                latencies.append((time.perf_counter() - begun) * 1000)
                covered.append(answer["hours"])
            latencies.sort()
            return {"summaries": len(latencies), "hours": min(covered), "p50_ms": latencies[len(latencies) // 2],
                    "p99_ms": latencies[len(latencies) * 99 // 100]}

        results.turns({"cold summaries": restarted})
    results.goal(f"p50 ms of cold summaries of {hours} hours", results.median("cold summaries", "p50_ms"), 5, is_at_least=False)


def main():
    parser = side_by_side.parser(__doc__, base_port=24900)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--only", choices=["acks", "reads", "cold"])
    parser.add_argument("--partitions", type=int, default=3, help="of the cluster that takes the reads")
    options = parser.parse_args()
    harness.BINARY = side_by_side.hourmark(options.binary)
    results = Results(options)
    for name, part in (("acks", acks), ("reads", reads), ("cold", cold)):
        if options.only in (None, name):
            part(options, results)
    results.finish()


if __name__ == "__main__":
    main()
