"""What strikes: each fault is begun, lasts a while, and is ended again."""
import os
import signal


class Fault:
    """`seconds`: how long it lasts, from and to."""
    seconds = (0.5, 8.0)

    def __init__(self, cluster, network, rng):
        self.cluster, self.network, self.rng = cluster, network, rng
        self.machine = rng.choice(cluster.nodes)

    def __str__(self):
        return f"{type(self).__name__} node-{self.machine.number}"

    def others(self):
        return [node.number for node in self.cluster.nodes if node is not self.machine]

    def end(self):
        pass


class Kill(Fault):
    """The process dies and is started again after a while."""

    def begin(self):
        self.machine.kill(signal.SIGKILL)

    def end(self):
        self.machine.start()


class Pause(Fault):
    """The process stands still, then goes on as if nothing had been."""

    def begin(self):
        self.machine.signal(signal.SIGSTOP)

    def end(self):
        self.machine.signal(signal.SIGCONT)


class PowerCut(Fault):
    """Whatever was not fsynced is lost."""
    seconds = (0.0, 3.0)

    def begin(self):
        self.machine.cut_power()

    def end(self):
        self.machine.return_power()


class PowerCutOfAll(Fault):
    """The same at all nodes at once."""
    seconds = (0.0, 1.0)

    def __str__(self):
        return type(self).__name__

    def begin(self):
        for machine in self.cluster.nodes:
            machine.cut_power()

    def end(self):
        for machine in self.cluster.nodes:
            machine.return_power()


class FullDisk(Fault):
    """The disk has next to nothing left."""
    seconds = (3.0, 15.0)

    def begin(self):
        self.machine.fill_disk(free=self.rng.choice([0, 1 << 20, 16 << 20]))

    def end(self):
        self.machine.empty_disk()


class Split(Fault):
    """One node is cut off from the others, in both directions; clients still reach it."""

    def begin(self):
        self.network.set(self.pairs(), loss=1.0)

    def end(self):
        self.network.heal(self.pairs())

    def pairs(self):
        return [pair for other in self.others() for pair in ((self.machine.number, other), (other, self.machine.number))]


class OneWaySplit(Split):
    """Others do not hear the node, but it hears them."""

    def pairs(self):
        return [(self.machine.number, other) for other in self.others()]


class CutLink(Split):
    """Two nodes do not hear each other, a third one hears both."""

    def pairs(self):
        other = min(self.others())
        return [(self.machine.number, other), (other, self.machine.number)]


class SlowLinks(Split):
    """Everything from and to one node takes longer, and some of it is lost."""

    def begin(self):
        self.network.set(self.pairs(), delay=self.rng.uniform(0.005, 0.15), loss=self.rng.uniform(0, 0.05))


MIXED = [Kill, Kill, Pause, PowerCut, PowerCutOfAll, FullDisk, Split, Split, OneWaySplit, CutLink, SlowLinks]
