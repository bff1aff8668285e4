#!/usr/bin/env python3
"""Side by side: DuckDB reads and aggregates a file of events; three Hourmark nodes take the same file in, fsynced and replicated.

    tests/benches/duckdb.py [--events 10M] [--rounds 3] [--format ndjson|binary]
                               [--request-events 50k] [--binary target/release/hourmark]

Needs `pip install duckdb`. Both get the same NDJSON (made by `hourmark bench --save`), one after the other, in turns. DuckDB gives
count, average, minimum, maximum and the exact median per app and hour, from the file, on all cores. Hourmark's rate is that of
acked events, in requests of 50,000; its answers are compared with the file's, every one, and the run fails if one is wrong.
CPU seconds are user and system of all processes; on a machine that does other work they say more than the wall clock.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUERY = """
    SELECT app_id, date_trunc('hour', timestamp) AS hour, count(*), avg(response_time_ms), min(response_time_ms),
           max(response_time_ms), median(response_time_ms)
    FROM read_json('{path}', format = 'newline_delimited',
                   columns = {{app_id: 'VARCHAR', timestamp: 'TIMESTAMP', response_time_ms: 'DOUBLE'}})
    GROUP BY ALL
"""
DUCKDB = """
import duckdb, resource, sys, time
begun = time.monotonic()
connection = duckdb.connect()
connection.execute("SET enable_progress_bar = false")
rows = connection.execute(sys.argv[1]).fetchall()
seconds = time.monotonic() - begun
used = resource.getrusage(resource.RUSAGE_SELF)
print(seconds, used.ru_utime + used.ru_stime, len(rows), sum(row[2] for row in rows))
"""


def duckdb(path):
    # Where it is called from this file may stand, which has the module's name.
    command = [sys.executable, "-c", DUCKDB, QUERY.format(path=path)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=pathlib.Path(path).parent)
    seconds, cpu, rows, events = run.stdout.split()[-4:]
    return {"events": int(events), "rate": int(events) / float(seconds), "cpu": float(cpu) / int(events) * 1e6, "rows": int(rows)}


def hourmark(binary, path, form, size, port):
    command = [binary, "bench", "--spawn", "3", "--base-port", str(port), "--replay", path, "--warm-up", "0", "--format", form,
               "--request-events", size, "-o", "json"]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if run.returncode != 0:
        raise SystemExit(run.stderr)
    report = json.loads(run.stdout)
    return {"events": report["events"], "rate": report["events_per_second"], "cpu": report["cpu_us_per_event"],
            "rows": report["verified"]["rollups"], "p50": report["ack_latency"]["p50_ms"], "p99": report["ack_latency"]["p99_ms"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", default="10M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--format", choices=["ndjson", "binary"], default="ndjson")
    parser.add_argument("--request-events", default="50k")
    parser.add_argument("--binary", default=str(ROOT / "target/release/hourmark"))
    parser.add_argument("--base-port", type=int, default=3700)
    arguments = parser.parse_args()
    results = {"duckdb": [], "hourmark": []}
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/events.ndjson"
        subprocess.run([arguments.binary, "bench", "--events", arguments.events, "--save", path], check=True)
        for _ in range(arguments.rounds):
            for name, run in (("duckdb", lambda: duckdb(path)),
                              ("hourmark", lambda: hourmark(arguments.binary, path, arguments.format, arguments.request_events,
                                                            arguments.base_port))):
                results[name].append(run())
                print(name, json.dumps(results[name][-1]), flush=True)
    for measure in ("rate", "cpu"):
        ours, theirs = (statistics.median(run[measure] for run in results[name]) for name in ("hourmark", "duckdb"))
        print(f"{measure}: hourmark {ours:,.3f}, duckdb {theirs:,.3f}, ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
