#!/usr/bin/env python3
"""Grows a cluster from one node to three under load, then loses each node once; every answer must stay exact.

    tests/acceptance/growth.py
"""
import json
import time

from load import Load, count_all
from harness import Cluster, say


def main():
    cluster = Cluster(base_port=24800)
    first, second, third = cluster.nodes
    first.start()
    cluster.wait_whole(1)
    load = Load(cluster.urls)
    load.start()
    try:
        for joiner, size in ((second, 2), (third, 3)):
            time.sleep(1)
            begun = time.monotonic()
            joiner.start()
            cluster.wait_whole(size)
            say(f"{size} nodes after {time.monotonic() - begun:.1f} s, {load.acked} requests acked")
        for lost in cluster.nodes:
            lost.kill()
            time.sleep(4)
            acked = load.acked
            count_all(cluster, at_least=acked)
            say(f"without node-{lost.number}: {acked} requests acked, answers complete")
            lost.start()
            cluster.wait_whole(3)
        load.stop()
        count_all(cluster, exactly=load.acked)
        cluster.digests_agree()
        print(json.dumps({"acked": load.acked}))
    finally:
        cluster.__exit__()


main()
