"""A network between machines, in user space: every machine has a TUN device in its own network namespace, and one process
carries the packets between them. So any link can be cut in one direction, delayed or made lossy without kernel modules."""
import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import subprocess
import time

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MTU = 16000
LIBC = ctypes.CDLL(None, use_errno=True)


def address(number):
    return f"10.77.0.{number}"


def open_tun(number):
    """Makes this namespace's only way out; returns the descriptor that its packets come and go through."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI))
    for command in (["link", "set", "lo", "up"], ["addr", "add", f"{address(number)}/24", "dev", "tun0"],
                    ["link", "set", "tun0", "mtu", str(MTU), "txqueuelen", "10000", "up"]):
        subprocess.run(["ip", *command], check=True)
    return device


class Namespace:
    """A network namespace, alive as long as its holder process."""

    def __init__(self, number):
        ours, theirs = socket.socketpair()
        self.holder = os.fork()
        if self.holder == 0:
            ours.close()
            if LIBC.unshare(CLONE_NEWNET) != 0:
                os._exit(1)
            socket.send_fds(theirs, [b"x"], [open_tun(number)])
            theirs.recv(1)  # Until the parent is gone.
            os._exit(0)
        theirs.close()
        self.line = ours
        message, devices, _, _ = socket.recv_fds(ours, 1, 1)
        if not message:
            raise SystemExit("cannot make a network namespace")
        self.device = devices[0]
        self.file = os.open(f"/proc/{self.holder}/ns/net", os.O_RDONLY)

    def enter(self):
        """To be called in a child before it becomes the program that shall live here."""
        if LIBC.setns(self.file, CLONE_NEWNET) != 0:
            os._exit(1)


class Network:
    """`devices`: TUN descriptor of each machine, by number. Rules are by (from, to)."""

    def __init__(self, devices, seed):
        self.rules = {}
        reader, self.writer = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.close(self.writer)
            carry(devices, reader, random.Random(seed))
            os._exit(0)
        os.close(reader)

    def set(self, pairs, **rule):
        """`loss`: share of packets, 1.0 cuts the link. `delay`: seconds, each packet takes up to twice as long."""
        for pair in pairs:
            self.rules[pair] = rule
        self.publish()

    def heal(self, pairs=None):
        for pair in list(pairs or self.rules):
            self.rules.pop(pair, None)
        self.publish()

    def publish(self):
        rules = [[*pair, rule.get("loss", 0.0), rule.get("delay", 0.0)] for pair, rule in self.rules.items()]
        os.write(self.writer, json.dumps(rules).encode() + b"\n")


def carry(devices, reader, rng):
    """Carries packets until the other end of `reader` is closed."""
    poll, by_descriptor = select.poll(), {device: number for number, device in devices.items()}
    for descriptor in [reader, *by_descriptor]:
        poll.register(descriptor, select.POLLIN)
    rules, waiting, order, text = {}, [], 0, b""
    while True:
        wait = max(0.0, waiting[0][0] - time.monotonic()) * 1000 if waiting else None
        for descriptor, _ in poll.poll(wait):
            if descriptor == reader:
                read = os.read(reader, 65536)
                if not read:
                    return
                *lines, text = (text + read).split(b"\n")
                if lines:
                    rules = {(one, other): (loss, delay) for one, other, loss, delay in json.loads(lines[-1])}
                continue
            for _ in range(64):
                try:
                    packet = os.read(descriptor, MTU + 64)
                except BlockingIOError:
                    break
                if packet[0] >> 4 != 4 or packet[19] not in devices:
                    continue
                loss, delay = rules.get((by_descriptor[descriptor], packet[19]), (0.0, 0.0))
                if rng.random() < loss:
                    continue
                if delay:
                    order += 1
                    heapq.heappush(waiting, (time.monotonic() + delay * rng.uniform(1, 2), order, packet))
                else:
                    deliver(devices, packet)
        while waiting and waiting[0][0] <= time.monotonic():
            deliver(devices, heapq.heappop(waiting)[2])


def deliver(devices, packet):
    try:
        os.write(devices[packet[19]], packet)
    except OSError:
        pass  # A full queue loses packets, as it does everywhere.
