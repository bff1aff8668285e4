#!/usr/bin/env python3
"""Kills the node that leads most partitions under load, again and again, and measures how long writes stand still.

    tests/acceptance/failover.py [--rounds 10]

Each round: three nodes, a client that posts one small request after the other to the nodes in turn (apps of all partitions in
each request, safe retries); SIGKILL of the leader; the time until a request that began after the kill is acked. At once after
that every app's count is asked linearizably and must hold every acked event. Prints the median; exit 0 if it is at most 3 s.
"""
import argparse
import json
import statistics
import time

from load import Load, count_all
from harness import Cluster, say

def leader(cluster):
    _, body = cluster.ask("/v1/cluster")
    led = [partition["leader"] for partition in body["partitions"]]
    most = max(set(led), key=led.count)
    name = next(node["name"] for node in body["nodes"] if node["id"] == most)
    return next(node for node in cluster.nodes if f"node-{node.number}" == name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--base-port", type=int, default=24700)
    arguments = parser.parse_args()
    pauses = []
    with Cluster(base_port=arguments.base_port) as cluster:
        load = Load(cluster.urls)
        load.start()
        for number in range(arguments.rounds):
            time.sleep(1.5)
            victim = leader(cluster)
            killed = time.monotonic()
            victim.kill()
            while not any(begun > killed for begun, _ in load.times):
                time.sleep(0.01)
            pause = next(acked for begun, acked in load.times if begun > killed) - killed
            count_all(cluster, at_least=load.acked)
            pauses.append(pause)
            say(f"round {number + 1}: killed node-{victim.number}, writes again after {pause:.2f} s, answers complete")
            victim.start()
            cluster.wait_whole()
        load.stop()
        count_all(cluster, exactly=load.acked)
        cluster.digests_agree()
    median = statistics.median(pauses)
    print(json.dumps({"rounds": len(pauses), "median_s": round(median, 3), "max_s": round(max(pauses), 3), "acked": load.acked}))
    raise SystemExit(0 if median <= 3 else 1)


main()
