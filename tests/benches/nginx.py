#!/usr/bin/env python3
"""Side by side: nginx serves a file; Hourmark answers for a sealed hour of one app with exactly as many bytes.

    tests/benches/nginx.py [--seconds 10] [--rounds 5] [--threads 1] [--connections 64] [--binary target/release/hourmark]

Needs nginx and wrk (Debian: apt-get install nginx-light wrk). Three Hourmark nodes hold events of 1,000 apps; the hour that is asked
for is over, sealed and written out. `wrk --latency` asks both for one URL over kept connections. nginx has a worker per core, its file
open, no access log. Hourmark is asked at the node that leads the app's partition and at one that does not, for the default
consistency (linearizable: each answer is confirmed by a majority after the question came) and for `consistency=local`. The goal is
about the default one at the leader: what a client that asks one app again and again can have.
"""
import datetime
import json
import pathlib
import re
import subprocess
import tempfile
import time
import urllib.request

import side_by_side
from side_by_side import Processes, Results, cpu, harness

CONFIG = """
daemon off; worker_processes auto; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; keepalive_timeout 600;
    open_file_cache max=10 inactive=600s; types {{ }} default_type application/json;
    client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2; fastcgi_temp_path {directory}/t3;
    uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;
    server {{ listen 127.0.0.1:{port}; root {directory}/www; }}
}}
"""
MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


def wrk(url, options, processes):
    """Asks for so long; answers a second, latencies, CPU of the servers and of wrk per answer."""
    command = ["wrk", "--latency", "-c", str(options.connections), "-t", str(options.threads), "-d", f"{options.seconds}s", url]
    before = sum(map(cpu, processes))
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    used = sum(map(cpu, processes)) - before
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(f"{url}: {text}")

    def latency(share):
        number, unit = re.search(rf"{share}%\s+([\d.]+)(us|ms|s|m)", text).groups()
        return float(number) * MILLISECONDS[unit]

    answers = int(re.search(r"(\d+) requests in", text).group(1))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))
    return {"answers_per_s": rate, "server_cpu_us": used / answers * 1e6, "p50_ms": latency(50), "p99_ms": latency(99)}


def post(url, events):
    body = "".join(json.dumps(event) + "\n" for event in events).encode()
    request = urllib.request.Request(f"{url}/v1/events", body, {"content-type": "application/x-ndjson"})
    urllib.request.urlopen(request, timeout=30).read()


def sealed_hour(binary, cluster):
    """Fills an hour of 1,000 apps and has it sealed; path of its question, URL of the leader, URL of another node."""
    hour = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=4)).strftime("%Y-%m-%dT%H")
    subprocess.run([binary, "bench", "--server", cluster.urls[0], "--prefix", "hot", "--hours", "1", "--first-hour", hour, "--late", "0",
                    "--events", "1M", "--warm-up", "0", "--no-verify", "-o", "json"], check=True, stdout=subprocess.DEVNULL)
    now = int(time.time() * 1000)
    post(cluster.urls[0], ({"app_id": f"hot-{app:04}", "timestamp": now, "response_time_ms": 1} for app in range(1000)))
    _, page = cluster.ask("/v1/apps?prefix=hot&limit=1000")
    path, deadline = f"/v1/apps/{page['apps'][17]['app_id']}/hours/{hour}", time.monotonic() + 120
    while (answer := cluster.ask(path)[1])["state"] != "sealed" or answer["revision"] == 0:
        if time.monotonic() > deadline:
            raise SystemExit(f"the hour is not sealed: {answer}")
        time.sleep(0.5)
    cluster.digests_agree()
    return path, *leader_and_other(cluster, path)


def leader_and_other(cluster, path):
    """URLs of the node that leads the app's partition, and of one that does not."""
    _, body = cluster.ask("/v1/cluster")
    names = {node["id"]: node["name"] for node in body["nodes"]}
    partition = partition_of(cluster, path)
    leading = next(names[each["leader"]] for each in body["partitions"] if each["id"] == partition)
    urls = {f"node-{node.number}": node.url for node in cluster.nodes}
    return urls[leading], next(url for name, url in urls.items() if name != leading)


def partition_of(cluster, path):
    """The partition of an app, from the token of a write to it: `partition.offset`."""
    app = path.split("/")[3]
    body = json.dumps({"app_id": app, "timestamp": int(time.time() * 1000), "response_time_ms": 1}).encode()
    request = urllib.request.Request(f"{cluster.urls[0]}/v1/events", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return int(json.load(answer)["token"].split(".")[0])


def main():
    parser = side_by_side.parser(__doc__, base_port=24860, rounds=5)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    binary = harness.BINARY = side_by_side.hourmark(options.binary)
    nginx = side_by_side.program("nginx", "Debian: apt-get install nginx-light")
    side_by_side.program("wrk", "Debian: apt-get install wrk")
    results = Results(options)
    with tempfile.TemporaryDirectory() as directory, harness.Cluster(base_port=options.base_port + 10, directory=directory) as cluster, \
            Processes() as processes:
        path, leader, other = sealed_hour(binary, cluster)
        with urllib.request.urlopen(leader + path, timeout=30) as answer:
            body = answer.read()
        www = pathlib.Path(f"{directory}/www")
        www.mkdir()
        (www / "answer").write_bytes(body)
        config = pathlib.Path(f"{directory}/nginx.conf")
        config.write_text(CONFIG.format(directory=directory, port=options.base_port))
        pathlib.Path(directory).chmod(0o755)
        server = processes.start([nginx, "-c", str(config), "-p", directory, "-e", f"{directory}/error.log"],
                                 open(f"{directory}/nginx.log", "ab"))
        time.sleep(1)
        if server.poll() is not None:
            raise SystemExit(pathlib.Path(f"{directory}/nginx.log").read_text())
        workers = [int(child) for child in pathlib.Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]
        nodes = [node.process.pid for node in cluster.nodes]
        runs = {"nginx": lambda: wrk(f"http://127.0.0.1:{options.base_port}/answer", options, workers)}
        for consistency in ("linearizable", "local"):
            for place, url in (("leader", leader), ("other", other)):
                address = f"{url}{path}?consistency={consistency}"
                runs[f"hourmark {consistency} {place}"] = lambda address=address: wrk(address, options, nodes)
        results.notes["bytes of the answer"] = len(body)
        for run in runs.values():
            run()
        results.turns(runs)
    results.ratio_goal("a hot sealed hour", "hourmark linearizable leader", "nginx", "answers_per_s", 0.7)
    results.ratio_goal("a hot sealed hour, local", "hourmark local leader", "nginx", "answers_per_s", 0.7)
    results.goal("p99 ms, linearizable", results.median("hourmark linearizable leader", "p99_ms"), 5, is_at_least=False)
    results.goal("p99 ms, local", results.median("hourmark local leader", "p99_ms"), 5, is_at_least=False)
    results.finish()


if __name__ == "__main__":
    main()
