#!/usr/bin/env python3
"""Side by side: Spark Structured Streaming aggregates a directory of NDJSON; three Hourmark nodes take the same events in.

    tests/benches/spark.py [--events 10M] [--spark-events 3M] [--rounds 3] [--binary target/release/hourmark]

Needs Java 17 or 21 and `pip install pyspark`. Spark (local mode, all cores) reads files with its streaming source and writes count,
average, minimum, maximum and approximate median (1 % of rank) by app and hour; one batch holds everything that is there, the
cheapest for it, and nothing is replicated or fsynced. Its settings are the best we know: as many shuffle partitions as cores, hash
aggregation for any number of groups, no UI, 4 GB of heap, a schema that is given. A first query over a tenth of the events warms
the JVM up. Its rate is told after all start-up (the one that the goal is about) and with the start of the session. Hourmark
acks every event fsynced on a majority of three nodes, and every answer is compared with what was sent. Spark may get fewer
events: its rate after start-up does not depend on how many there are, beyond a few million.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import side_by_side
from side_by_side import Results, bench, count, ingest

JOB = """
import json, os, pathlib, sys, time
begun = time.monotonic()
from pyspark.sql import SparkSession, functions as f
from pyspark.sql.types import DoubleType, StringType, StructField, StructType, TimestampType
warm_up, measured, scratch, cores = sys.argv[1:5]
settings = {
    "spark.sql.shuffle.partitions": cores, "spark.default.parallelism": cores, "spark.driver.memory": "4g", "spark.ui.enabled": "false",
    "spark.sql.objectHashAggregate.sortBased.fallbackThreshold": "10000000", "spark.sql.session.timeZone": "UTC",
    "spark.local.dir": scratch, "spark.sql.warehouse.dir": scratch + "/warehouse", "spark.driver.host": "127.0.0.1",
    "spark.sql.adaptive.enabled": "false", "spark.sql.streaming.metricsEnabled": "false",
}
builder = SparkSession.builder.master(f"local[{cores}]").appName("side-by-side")
for name, value in settings.items():
    builder = builder.config(name, value)
spark = builder.getOrCreate()
spark.sparkContext.setLogLevel("ERROR")
session = time.monotonic() - begun
schema = StructType([StructField("app_id", StringType()), StructField("timestamp", TimestampType()), StructField("response_time_ms", DoubleType())])
jvm, ticks = spark.sparkContext._gateway.proc.pid, os.sysconf("SC_CLK_TCK")

def used():
    fields = pathlib.Path(f"/proc/{jvm}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / ticks + time.process_time()

def run(directory, name):
    value = f.col("response_time_ms")
    rollups = spark.readStream.schema(schema).json(directory).groupBy("app_id", f.date_trunc("hour", "timestamp").alias("hour")).agg(
        f.count("*").alias("count"), f.avg(value).alias("average"), f.min(value).alias("min"), f.max(value).alias("max"),
        f.percentile_approx(value, 0.5, 100).alias("median"))
    write = lambda batch, _: batch.write.mode("overwrite").parquet(f"{scratch}/{name}")
    query = (rollups.writeStream.outputMode("complete").foreachBatch(write).trigger(availableNow=True)
             .option("checkpointLocation", f"{scratch}/checkpoint-{name}"))
    before, begun = used(), time.monotonic()
    query.start().awaitTermination()
    seconds, cpu = time.monotonic() - begun, used() - before
    rows = spark.read.parquet(f"{scratch}/{name}")
    return seconds, cpu, rows.count(), rows.agg(f.sum("count")).first()[0]

run(warm_up, "warm-up")
seconds, cpu, rows, events = run(measured, "measured")
print(json.dumps({"seconds": seconds, "cpu": cpu, "rows": rows, "events": events, "session": session}))
"""


def split(path, directory, files):
    """The lines of a file dealt to so many files, each a stretch of them: Spark reads them in parallel."""
    directory.mkdir()
    size, begun = path.stat().st_size, 0
    with path.open("rb") as source:
        for number in range(files):
            wanted = size * (number + 1) // files - begun
            with (directory / f"{number}.json").open("wb") as target:
                while wanted > 0:
                    block = source.read(min(wanted, 1 << 20))
                    wanted -= len(block)
                    begun += len(block)
                    target.write(block)
                    if not block:
                        break
                rest = source.readline()
                begun += len(rest)
                target.write(rest)


def spark(directory, events):
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        command = [sys.executable, "-c", JOB, f"{directory}/warm-up", f"{directory}/measured", scratch, str(os.cpu_count())]
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=scratch)
    if run.returncode != 0:
        raise SystemExit(f"Spark failed: {run.stderr[-3000:]}")
    job = json.loads(run.stdout.splitlines()[-1])
    if job["events"] != events:
        raise SystemExit(f"Spark counted {job['events']} of {events} events")
    return {"events": events, "events_per_s": events / job["seconds"], "cpu_us": job["cpu"] / events * 1e6, "rows": job["rows"],
            "with_start_per_s": events / (job["seconds"] + job["session"])}


def main():
    parser = side_by_side.parser(__doc__, base_port=24840)
    parser.add_argument("--events", type=count, default="10M")
    parser.add_argument("--spark-events", type=count, default="3M", help="fewer for Spark, because it takes its time")
    options = parser.parse_args()
    binary = side_by_side.hourmark(options.binary)
    side_by_side.program("java", "Spark needs Java 17 or 21 (Debian: apt-get install openjdk-21-jre-headless)")
    side_by_side.module("pyspark", "pip install pyspark")
    results = Results(options)
    with tempfile.TemporaryDirectory() as directory:
        for name, events in (("warm-up", options.spark_events // 10), ("measured", options.spark_events)):
            path = pathlib.Path(f"{directory}/{name}.ndjson")
            side_by_side.save(binary, path, events, "--prefix", "spark")
            split(path, pathlib.Path(f"{directory}/{name}"), 2 * os.cpu_count())
            path.unlink()
        results.turns({
            "spark": lambda: spark(directory, options.spark_events),
            "hourmark": lambda: ingest(bench(binary, "--spawn", 3, "--base-port", options.base_port, "--events", options.events,
                                             "--warm-up", options.events // 10)),
        })
    results.ratio_goal("NDJSON to rollups", "hourmark", "spark", "events_per_s", 20)
    results.finish()


if __name__ == "__main__":
    main()
