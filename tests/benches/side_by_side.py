"""What the comparisons share: options, peers that may be missing, Hourmark's own bench, CPU time, turns, medians, the verdict.

Every script prints a line of JSON for each run and a table at the end; `--json FILE` writes all of it. It exits with 0 if every
goal was met, 1 if one was missed, 77 if a peer is missing (then nothing is compared).
"""
import argparse
import importlib
import json
import os
import pathlib
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")
SKIPPED = 77

sys.path.insert(0, str(ROOT / "tests/acceptance"))
import harness  # noqa: E402 (real node processes, shared with the acceptance runs)


def parser(doc, base_port, rounds=3):
    """The options that all scripts have."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--binary", default=str(ROOT / "target/release/hourmark"), help="the hourmark to measure")
    options.add_argument("--rounds", type=int, default=rounds, help="turns of each; the medians are reported")
    options.add_argument("--base-port", type=int, default=base_port, help="first of the ports that are used")
    options.add_argument("--json", type=pathlib.Path, help="write runs, medians and verdicts here")
    return options


def say(text):
    print(text, file=sys.stderr, flush=True)


def skip(what, how):
    say(f"skipped: {what} is missing; {how}")
    raise SystemExit(SKIPPED)


def program(name, how):
    """The path of a program, or the end of the script."""
    return shutil.which(name) or skip(name, how)


def module(name, how):
    """A Python module, or the end of the script. Scripts here may have the names of what they compare with."""
    here, path = str(pathlib.Path(__file__).parent), sys.path
    sys.path = [directory for directory in path if directory != here]
    try:
        return importlib.import_module(name)
    except ImportError:
        return skip(f"the Python module {name}", how)
    finally:
        sys.path = path


def hourmark(binary):
    """Checks that there is a binary to measure."""
    return program(binary, "build it (cargo build --release) or name one with --binary")


def count(text):
    """10M, 500k or 7."""
    units = {"k": 1000, "m": 1_000_000}
    return int(text[:-1]) * units[text[-1].lower()] if text[-1].lower() in units else int(text)


def bench(binary, *flags, node_flags=()):
    """One run of `hourmark bench`: its report."""
    command = [binary, "bench", *map(str, flags), "-o", "json", *(["--", *node_flags] if node_flags else [])]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if run.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {run.stderr}")
    return json.loads(run.stdout)


def save(binary, path, events, *flags):
    """Writes the events of a bench as NDJSON."""
    subprocess.run([binary, "bench", "--events", str(events), "--save", str(path), *map(str, flags)], check=True)


def ingest(report):
    """The numbers of a run of events that comparisons use."""
    numbers = {"events": report["events"], "events_per_s": report["events_per_second"], "cpu_us": report["cpu_us_per_event"],
               "p50_ms": report["ack_latency"]["p50_ms"], "p99_ms": report["ack_latency"]["p99_ms"], "partitions": report["partitions"]}
    if report["nodes"]:
        numbers["node_mib_max"] = max(node["memory_bytes_max"] for node in report["nodes"]) >> 20
    if report["fsync"]:
        numbers |= {"fsync_p50_ms": report["fsync"]["p50_ms"], "fsync_p99_ms": report["fsync"]["p99_ms"]}
    if report["verified"]:
        numbers["wrong"] = report["verified"]["wrong"]
    return numbers


def cpu(process):
    """CPU seconds, user and system, that a process has used so far."""
    fields = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def yard():
    """Seconds that a fixed piece of work takes on one core: how much other work slows this machine just now."""
    begun, total = time.perf_counter(), 0
    for number in range(2_000_000):
        total += number & 7
    return round(time.perf_counter() - begun, 3)


class Processes:
    """Processes of the script's own; gone when it is done."""

    def __init__(self):
        self.running = []

    def start(self, command, log):
        process = subprocess.Popen(command, stdout=log, stderr=log)
        self.running.append(process)
        return process

    def cpu(self):
        return sum(cpu(process.pid) for process in self.running)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Results:
    """Runs by what was measured, and what they say about the goals."""

    def __init__(self, options):
        self.options, self.runs, self.verdicts, self.notes = options, {}, [], {}
        self.machine = {"cores": os.cpu_count(), "kernel": platform.release(), "processor": processor(), "load_before": load()}

    def add(self, name, numbers):
        numbers = {key: round(value, 4) if isinstance(value, float) else value for key, value in numbers.items()}
        numbers |= {"yard_s": yard(), "load": load()[0]}
        self.runs.setdefault(name, []).append(numbers)
        print(json.dumps({"run": name, **numbers}), flush=True)

    def turns(self, runs, rounds=None):
        """Each in its turn, again and again, so that all of them meet the same disturbances."""
        for number in range(rounds or self.options.rounds):
            names = list(runs) if number % 2 == 0 else list(reversed(runs))
            for name in names:
                self.add(name, runs[name]())

    def median(self, name, measure):
        return statistics.median(run[measure] for run in self.runs[name])

    def ratio(self, ours, theirs, measure):
        """Ratio of the medians, and of the best round of each: the one that other work disturbed least."""
        best = [max(run[measure] for run in self.runs[name]) for name in (ours, theirs)]
        return self.median(ours, measure) / self.median(theirs, measure), best[0] / best[1]

    def goal(self, what, figure, bound, is_at_least=True):
        met = figure >= bound if is_at_least else figure <= bound
        self.verdicts.append({"what": what, "figure": round(figure, 3), "goal": f"{'>=' if is_at_least else '<='} {bound:g}", "met": met})

    def ratio_goal(self, what, ours, theirs, measure, bound):
        figure, best = self.ratio(ours, theirs, measure)
        cpu = ""
        if "cpu_us" in self.runs[ours][0] and "cpu_us" in self.runs[theirs][0]:
            cpu = f", CPU an event {self.median(theirs, 'cpu_us') / self.median(ours, 'cpu_us'):.2f}"
        self.goal(f"{what}: {measure} of {ours} / {theirs} (best rounds {best:.2f}{cpu})", figure, bound)

    def finish(self):
        """Prints the table, writes the file, ends the script."""
        measures = [measure for measure in dict.fromkeys(key for runs in self.runs.values() for key in runs[0])
                    if measure not in ("yard_s", "load")]
        rows = [["median of", "runs", *measures]]
        for name, runs in self.runs.items():
            cells = [text(self.median(name, measure)) if measure in runs[0] else "" for measure in measures]
            rows.append([name, str(len(runs)), *cells])
        widths = [max(map(len, column)) for column in zip(*rows)]
        print()
        for row in rows:
            print("  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip())
        print()
        for verdict in self.verdicts:
            print(f"{'met   ' if verdict['met'] else 'MISSED'} {verdict['what']}: {verdict['figure']:,} (goal {verdict['goal']})")
        self.machine |= {"load_after": load(), "yard_s": [run["yard_s"] for runs in self.runs.values() for run in runs]}
        print(f"machine: {self.machine['processor']}, {self.machine['cores']} cores; load {self.machine['load_before'][0]} before,"
              f" {self.machine['load_after'][0]} after; yard {min(self.machine['yard_s'])} to {max(self.machine['yard_s'])} s")
        if self.options.json:
            medians = {name: {measure: self.median(name, measure) for measure in runs[0] if measure not in ("yard_s", "load")}
                       for name, runs in self.runs.items()}
            document = {"machine": self.machine, "notes": self.notes, "medians": medians, "verdicts": self.verdicts, "runs": self.runs}
            self.options.json.write_text(json.dumps(document, indent=1) + "\n")
        raise SystemExit(0 if all(verdict["met"] for verdict in self.verdicts) else 1)


def text(number):
    if not isinstance(number, (int, float)):
        return str(number)
    return f"{number:,.0f}" if abs(number) >= 1000 or float(number).is_integer() else f"{number:.3f}"


def load():
    return [round(value, 2) for value in os.getloadavg()]


def processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
