#!/usr/bin/env python3
"""Chaos with real processes: nodes on machines of their own (network namespaces, ext4 disks) under faults, and clients
that know what they were told. Prints what happened; exits 1 if a promise was broken, 0 if it had to be skipped.

    tests/chaos/run.py --minutes 10
    tests/chaos/run.py --power-cuts 50 --power-cuts-of-all 20

Needs Linux and root (namespaces, mounts, /dev/net/tun), `ip` and `mkfs.ext4`."""
import argparse
import collections
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

import faults
import machines
import network
import oracle
from harness import BINARY, say

CLIENTS = 254
SERVES_AGAIN_SECONDS = 120


def main():
    options = parse()
    missing = what_is_missing()
    if missing:
        say(f"SKIPPED: the chaos run needs {missing}")
        return 0
    if not os.path.exists(BINARY):
        say(f"there is no {BINARY}: build it, or name another with HOURMARK_BINARY")
        return 1
    if os.environ.get("HOURMARK_CHAOS") != "inside":
        # Own mounts and an own network, which vanish with this process.
        os.environ["HOURMARK_CHAOS"] = "inside"
        os.execvp("unshare", ["unshare", "--net", "--mount", sys.executable, *sys.argv])
    directory = tempfile.mkdtemp(prefix="hourmark-chaos-")
    history = run(options, directory)
    for violation in history.violations[:20]:
        say(f"VIOLATED: {violation}")
    if history.violations:
        say(f"{len(history.violations)} violations; logs in {directory}; again with --seed {options.seed}")
        return 1
    return 0


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="how long mixed faults strike")
    parser.add_argument("--power-cuts", type=int, default=0, help="instead: so many power cuts of one node")
    parser.add_argument("--power-cuts-of-all", type=int, default=0, help="and so many of all nodes at once")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=None, help="decides faults and load (not their interleaving)")
    options = parser.parse_args()
    options.seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    return options


def what_is_missing():
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "Linux and root"
    for tool in ("ip", "mkfs.ext4", "unshare", "mount"):
        if not shutil.which(tool):
            return f"the program {tool}"
    if not os.path.exists("/dev/net/tun"):
        return "/dev/net/tun"
    if subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True).returncode != 0:
        return "the right to make namespaces"
    if subprocess.run(["losetup", "-f"], capture_output=True).returncode != 0:
        return "a loop device"
    return None


def run(options, directory):
    rng = random.Random(options.seed)
    say(f"seed {options.seed}")
    devices = {CLIENTS: network.open_tun(CLIENTS)}
    cluster = machines.Cluster(options.nodes, directory, [])
    devices |= {machine.number: machine.namespace.device for machine in cluster.nodes}
    net = network.Network(devices, options.seed)
    history, struck = oracle.History(), collections.Counter()
    with cluster:
        producers, readers = oracle.clients([network.address(m.number) for m in cluster.nodes], history, options.seed)
        for client in producers + readers:
            client.start()
        begun = time.monotonic()
        for fault in chosen(options, begun, cluster, net, rng):
            strike(fault, cluster, rng, struck)
        for client in producers + readers:
            client.stopped.set()
        for client in producers + readers:
            client.join()
        settle(cluster, net, producers, history)
    report(time.monotonic() - begun, struck, history)
    return history


def chosen(options, begun, cluster, net, rng):
    """The faults, one after the other; now and then two at once."""
    fixed = [faults.PowerCut] * options.power_cuts + [faults.PowerCutOfAll] * options.power_cuts_of_all
    rng.shuffle(fixed)
    for kind in fixed:
        yield [kind(cluster, net, rng)]
    while not fixed and time.monotonic() < begun + options.minutes * 60:
        group = [rng.choice(faults.MIXED)(cluster, net, rng)]
        if rng.random() < 0.25 and not isinstance(group[0], faults.PowerCutOfAll):
            second = rng.choice([faults.Split, faults.CutLink, faults.SlowLinks])(cluster, net, rng)
            group += [second] if not isinstance(group[0], faults.Split) else []
        yield group


def strike(group, cluster, rng, struck):
    say(f"{time.strftime('%H:%M:%S')} {' + '.join(map(str, group))}")
    for fault in group:
        struck[type(fault).__name__] += 1
        fault.begin()
    time.sleep(rng.uniform(*group[0].seconds))
    for fault in group:
        fault.end()
    time.sleep(rng.uniform(0.2, 3.0))
    for machine in cluster.nodes:
        if not machine.is_running():
            # A node may stop where its disk fails; whoever runs it starts it again.
            struck["restart of a stopped node"] += 1
            machine.kill()
            machine.start()


def settle(cluster, net, producers, history):
    """No faults any more: everything must serve again, and say what was promised."""
    net.heal()
    try:
        cluster.wait_whole(seconds=SERVES_AGAIN_SECONDS)
        for producer in producers:
            producer.settle(time.monotonic() + SERVES_AGAIN_SECONDS)
        oracle.verdict(cluster, producers, history)
        cluster.digests_agree()
    except SystemExit as error:
        history.violated(str(error))


def report(seconds, struck, history):
    say(", ".join(f"{count} × {name}" for name, count in sorted(struck.items())))
    acked = sum(numbers.count for numbers in history.acked.values())
    say(f"{seconds:.0f} s, {history.requests} requests, {acked} events acked, {history.unknown} requests left unknown for a "
        f"while, {history.reads} reads of which {history.failed_reads} failed, {len(history.violations)} violations")


if __name__ == "__main__":
    sys.exit(main())
