"""Machines of their own on one computer: a network namespace, a disk of its own (ext4 in a file) and a node process."""
import fcntl
import os
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "acceptance"))
import harness
from network import Namespace, address

EXT4_IOC_SHUTDOWN, SHUTDOWN_NOLOGFLUSH = 0x8004587D, 2
DISK_BYTES = 2 << 30


class Machine:
    """One node with everything it stands on. Names follow the acceptance harness, whose cluster it is part of."""

    def __init__(self, number, directory, extra):
        self.number, self.extra, self.process = number, list(extra), None
        self.namespace = Namespace(number)
        self.url = f"http://{address(number)}:3600"
        self.image, self.mount_point = os.path.join(directory, f"disk-{number}.img"), os.path.join(directory, f"disk-{number}")
        self.log = open(os.path.join(directory, f"node-{number}.log"), "ab")
        os.makedirs(self.mount_point)
        with open(self.image, "wb") as image:
            image.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", self.image], check=True)
        self.mount()

    def mount(self):
        subprocess.run(["mount", "-o", "loop", self.image, self.mount_point], check=True)

    def start(self):
        command = [harness.BINARY, "start", "--data-dir", os.path.join(self.mount_point, "data"),
                   "--http-addr", f"{address(self.number)}:3600", "--cluster-addr", f"{address(self.number)}:3601",
                   "--node-name", f"node-{self.number}", *self.extra]
        if self.number != 1:
            command += ["--join", f"{address(1)}:3601"]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, preexec_fn=self.namespace.enter)

    def is_running(self):
        return self.process.poll() is None

    def signal(self, signal):
        if self.is_running():
            self.process.send_signal(signal)

    def kill(self, how=9):
        self.signal(how)
        return self.process.wait()

    def cut_power(self):
        """What was not fsynced is gone: the file system forgets it, then the process dies."""
        descriptor = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", SHUTDOWN_NOLOGFLUSH))
        finally:
            os.close(descriptor)

    def return_power(self):
        self.kill()
        subprocess.run(["umount", self.mount_point], check=True)
        self.mount()
        self.start()

    def fill_disk(self, free):
        """Leaves about `free` bytes of the disk to the node."""
        with open(self.ballast, "wb") as ballast:
            size = 0
            for step in (1 << 28, 1 << 24, 1 << 20, 1 << 16, 1 << 12):
                while self.bytes_free() >= step + free:
                    try:
                        os.posix_fallocate(ballast.fileno(), size, step)
                    except OSError:
                        break
                    size += step

    def bytes_free(self):
        space = os.statvfs(self.mount_point)
        return space.f_bavail * space.f_frsize

    def empty_disk(self):
        if os.path.exists(self.ballast):
            os.remove(self.ballast)

    @property
    def ballast(self):
        return os.path.join(self.mount_point, "ballast")


class Cluster(harness.Cluster):
    """The acceptance harness's cluster, on machines of their own."""

    def __init__(self, count, directory, extra):
        self.directory = directory
        self.nodes = [Machine(number, directory, extra) for number in range(1, count + 1)]
        harness.say(f"disks and logs in {directory}")
