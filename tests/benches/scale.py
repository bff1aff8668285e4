#!/usr/bin/env python3
"""How throughput and memory go with partitions, nodes and apps; draws the curves of docs/curves.

    tests/benches/scale.py [--events 4M] [--rounds 3] [--draw-only] [--binary target/release/hourmark]

Needs nothing but the binary. Each point is a new cluster under `hourmark bench` at full rate, in turns; every answer is compared with what
was sent. All nodes share this machine: more of them show what replication costs, not what more machines give. The apps' events lie in
one hour, as those of a running system do; what 100,000 apps cost where every hour of a day is filled within seconds (two million
rows, two events each) is measured beside it. Results go to docs/curves/scale.json and, drawn from there, to docs/curves/*.svg;
--draw-only draws without measuring.
"""
import json

import curves
import side_by_side
from side_by_side import ROOT, Results, bench, count, ingest

RESULTS = ROOT / "docs/curves/scale.json"
USUAL = ["--partitions", "3"]  # A cluster on few cores would have one.
POINTS = {
    "partitions": [(each, ["--spawn", 3], ["--partitions", str(each)]) for each in (1, 8, 32)],
    "nodes": [(each, ["--spawn", each], USUAL) for each in (1, 3, 5)],
    "apps": [(each, ["--spawn", 3, "--hours", 1, "--apps", each], USUAL) for each in (1000, 10_000, 100_000)],
}
HISTORY = "100,000 apps, 24 hours"


def draw():
    runs = json.loads(RESULTS.read_text())["runs"]

    def curve(name, title, what, measure, scale):
        samples = [(f"{each:,}", [run[measure] * scale for run in runs[f"{each:,} {what}"]]) for each, _, _ in POINTS[what]]
        (RESULTS.parent / f"{name}.svg").write_text(curves.chart(title, what, samples))

    for what in POINTS:
        curve(what, f"Million events a second by {what}", what, "events_per_s", 1e-6)
    curve("memory", "Most memory of a node in MiB by apps", "apps", "node_mib_max", 1)


def main():
    parser = side_by_side.parser(__doc__, base_port=24960)
    parser.add_argument("--events", type=count, default="4M")
    parser.add_argument("--draw-only", action="store_true")
    options = parser.parse_args()
    if options.draw_only:
        return draw()
    side_by_side.hourmark(options.binary)
    options.json = options.json or RESULTS
    options.json.parent.mkdir(exist_ok=True)
    results = Results(options)
    results.notes["events of a run"] = options.events

    def run(flags, node_flags):
        return ingest(bench(options.binary, *flags, "--base-port", options.base_port, "--events", options.events,
                            "--warm-up", options.events // 10, "--request-events", "10k", node_flags=node_flags))

    runs = {f"{each:,} {what}": lambda flags=flags, node_flags=node_flags: run(flags, node_flags)
            for what, points in POINTS.items() for each, flags, node_flags in points}
    results.turns(runs | {HISTORY: lambda: run(["--spawn", 3, "--apps", 100_000], USUAL)})
    results.goal("events/s with 100,000 apps", results.median("100,000 apps", "events_per_s"), 2e6)
    results.goal("MiB of a node with 100,000 apps", results.median("100,000 apps", "node_mib_max"), 1.5e9 / 2**20, is_at_least=False)
    try:
        results.finish()
    finally:
        if options.json == RESULTS:
            draw()


if __name__ == "__main__":
    main()
