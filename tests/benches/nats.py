#!/usr/bin/env python3
"""Side by side: a replicated log that flushes before it acks. NATS JetStream with three replicas and Hourmark with three nodes.

    tests/benches/nats.py [--events 3M] [--rounds 3] [--nats-server PATH] [--binary target/release/hourmark]

Needs nats-server (`go install github.com/nats-io/nats-server/v2@latest`) and `pip install nats-py`. Both run as three processes on
loopback. NATS: one stream, three replicas, `sync_interval: always` (fsync before every ack, as Hourmark does), one message for
every 1,000 events of NDJSON (89 kB), published asynchronously with as many in flight as serve it best (tried first). It stores
the messages and nothing else. Hourmark takes requests of the same 1,000 events with as many connections, reads every line,
aggregates, and every answer is compared with what was sent. Both are measured with 10,000 events a message, too, and Hourmark with
requests as `bench` makes them by default; all pairs are told. CPU is that of the servers and the client.
"""
import asyncio
import pathlib
import tempfile
import time

import side_by_side
from side_by_side import Processes, Results, bench, count, cpu, ingest

CONFIG = """
server_name: n{number}
listen: 127.0.0.1:{client}
max_payload: 8MB
max_pending: 512MB
jetstream {{ store_dir: "{directory}/n{number}", sync_interval: always, max_file: 100GB }}
cluster {{ name: bench, listen: 127.0.0.1:{route}, routes: [{routes}] }}
"""


class Servers:
    """Three nats-servers, and the client that publishes to them."""

    def __init__(self, binary, base_port, directory, nats):
        self.binary, self.directory, self.nats = binary, directory, nats
        self.clients = [base_port + number for number in range(3)]
        self.routes = [base_port + 10 + number for number in range(3)]
        self.processes = Processes()

    def start(self):
        for number in range(3):
            config = pathlib.Path(f"{self.directory}/{number}.conf")
            routes = ", ".join(f'"nats://127.0.0.1:{route}"' for route in self.routes)
            config.write_text(CONFIG.format(number=number, client=self.clients[number], route=self.routes[number],
                                            routes=routes, directory=self.directory))
            log = open(f"{self.directory}/{number}.log", "ab")
            self.processes.start([self.binary, "-c", str(config)], log)

    async def connect(self):
        async def quiet(_):
            """Servers that do not listen yet are tried again."""

        servers = [f"nats://127.0.0.1:{client}" for client in self.clients]
        return await self.nats.connect(servers, pending_size=256 << 20, error_cb=quiet)

    async def publish(self, body, events, window):
        """Publishes bodies of so many events into a new stream of three replicas; what it took."""
        connection = await self.connect()
        js = connection.jetstream(timeout=60)
        await self.stream(connection.jetstream(timeout=1))
        left, latencies = iter(range(events[0] // events[1])), []
        before, begun = self.processes.cpu() + cpu("self"), time.monotonic()

        async def publisher():
            for _ in left:
                sent = time.monotonic()
                await js.publish("bench", body)
                latencies.append((time.monotonic() - sent) * 1000)

        await asyncio.gather(*(publisher() for _ in range(window)))
        seconds, used = time.monotonic() - begun, self.processes.cpu() + cpu("self") - before
        stored = (await js.stream_info("bench")).state.messages
        await js.delete_stream("bench")
        await connection.close()
        if stored != len(latencies):
            raise SystemExit(f"NATS holds {stored} of {len(latencies)} messages")
        latencies.sort()
        done = len(latencies) * events[1]
        return {"events": done, "events_per_s": done / seconds, "cpu_us": used / done * 1e6,
                "p50_ms": latencies[len(latencies) // 2], "p99_ms": latencies[len(latencies) * 99 // 100]}

    async def stream(self, js):
        deadline = time.monotonic() + 60
        while True:
            try:
                return await js.add_stream(name="bench", subjects=["bench"], num_replicas=3, storage="file")
            except Exception as error:  # The servers have not elected a leader of their own yet.
                if time.monotonic() > deadline:
                    raise SystemExit(f"nats-server: no stream: {error}; logs in {self.directory}")
                await asyncio.sleep(0.2)


def main():
    parser = side_by_side.parser(__doc__, base_port=24800)
    parser.add_argument("--events", type=count, default="3M")
    parser.add_argument("--nats-server", default="nats-server")
    options = parser.parse_args()
    binary = side_by_side.hourmark(options.binary)
    peer = side_by_side.program(options.nats_server, "go install github.com/nats-io/nats-server/v2@latest, or --nats-server PATH")
    nats = side_by_side.module("nats", "pip install nats-py")
    results = Results(options)

    with tempfile.TemporaryDirectory() as directory:
        line = pathlib.Path(f"{directory}/events.ndjson")
        side_by_side.save(binary, line, 10_000)
        text = line.read_bytes()
        bodies = {10_000: text, 1000: b"\n".join(text.split(b"\n")[:1000]) + b"\n"}

        def publish(events, size, window):
            with tempfile.TemporaryDirectory(dir=directory) as data:
                servers = Servers(peer, options.base_port, data, nats)
                with servers.processes:
                    servers.start()
                    asyncio.run(servers.publish(bodies[size], (max(events // 10, 20 * size), size), window))  # Warm.
                    return asyncio.run(servers.publish(bodies[size], (events, size), window))

        def send(*flags):
            return ingest(bench(binary, "--spawn", 3, "--base-port", options.base_port + 20, "--events", options.events,
                                "--warm-up", options.events // 10, *flags))

        best = {}
        for size, windows in ((1000, (16, 64, 256)), (10_000, (4, 12, 32))):
            rates = {window: publish(options.events // 3, size, window)["events_per_s"] for window in windows}
            best[size] = max(rates, key=rates.get)
            results.notes[f"NATS, events/s by messages of {size} in flight"] = {key: round(rate) for key, rate in rates.items()}
        for note, rates in results.notes.items():
            side_by_side.say(f"{note}: {rates}")
        results.turns({
            "nats 1,000": lambda: publish(options.events, 1000, best[1000]),
            "hourmark": send,
            "hourmark 1,000": lambda: send("--request-events", 1000, "--connections", 64),
            "nats 10,000": lambda: publish(options.events, 10_000, best[10_000]),
            "hourmark 10,000": lambda: send("--request-events", 10_000),
        })
    results.ratio_goal("messages of 1,000 events, requests of 50,000", "hourmark", "nats 1,000", "events_per_s", 4)
    results.ratio_goal("messages of 1,000 events, requests of 10,000", "hourmark 10,000", "nats 1,000", "events_per_s", 4)
    results.ratio_goal("the same 1,000 events in both", "hourmark 1,000", "nats 1,000", "events_per_s", 4)
    results.ratio_goal("the same 10,000 events in both", "hourmark 10,000", "nats 10,000", "events_per_s", 4)
    results.finish()


if __name__ == "__main__":
    main()
