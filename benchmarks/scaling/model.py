"""A model on paper of a training iteration in many processes.

An iteration of P processes takes::

    t = compute + all-reduce + gather
    compute    = operations of a process / (peak * used share), or launches * launch time if longer
    all-reduce = updates * (2 (P - 1) / P * bytes of the gradient / bandwidth + 2 (P - 1) * latency)
    gather     = selections * ((P - 1) / P * bytes of the scores / bandwidth + (P - 1) * latency)

All-reduce and gather by ring, nothing of them hidden behind the backward pass: both are upper
bounds, for DistributedDataParallel overlaps and NCCL takes trees for small messages.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """What joins two neighbours of the ring.

    Attributes:
        latency: seconds of one message.
        bandwidth: bytes a second.
    """

    latency: float
    bandwidth: float


@dataclass(frozen=True)
class Work:
    """What an iteration does, over all processes.

    Attributes:
        operations: floating-point operations of one sample's share of an iteration.
        batch: samples of an update, over all processes.
        critic_bytes, generator_bytes: of a gradient.
        critic_updates: of the critic, to one of the generator.
        selections: of top-k, in an iteration.
        launches: kernels that a process starts.
    """

    operations: float
    batch: int
    critic_bytes: int
    generator_bytes: int
    critic_updates: int
    selections: int
    launches: int


@dataclass(frozen=True)
class Device:
    """A processor.

    Attributes:
        rate: floating-point operations a second that the networks reach on it.
        launch: seconds to start a kernel.
    """

    rate: float
    launch: float


def all_reduce(processes: int, count: int, link: Link) -> float:
    """Seconds to average ``count`` bytes over a ring."""
    steps = 2 * (processes - 1)
    return steps * (count / processes / link.bandwidth + link.latency)


def all_gather(processes: int, count: int, link: Link) -> float:
    """Seconds until every process has the ``count`` bytes of all of them, over a ring."""
    return (processes - 1) * (count / processes / link.bandwidth + link.latency)


@dataclass(frozen=True)
class Iteration:
    """Seconds of an iteration's parts."""

    compute: float
    gradients: float
    gather: float

    @property
    def total(self) -> float:
        return self.compute + self.gradients + self.gather

    @property
    def gather_share(self) -> float:
        return self.gather / self.total


def iteration(work: Work, processes: int, device: Device, link: Link) -> Iteration:
    """An iteration that ``processes`` share."""
    arithmetic = work.operations * work.batch / processes / device.rate
    return Iteration(
        compute=max(arithmetic, work.launches * device.launch),
        gradients=work.critic_updates * all_reduce(processes, work.critic_bytes, link)
        + all_reduce(processes, work.generator_bytes, link),
        gather=work.selections * all_gather(processes, 4 * work.batch, link),
    )


def first_where_gather_reaches(
    share: float, work: Work, device: Device, link: Link, most: int = 1 << 20
) -> int | None:
    """The first power of two of processes whose gather takes ``share`` of an iteration."""
    processes = 2
    while processes <= most:
        if iteration(work, processes, device, link).gather_share >= share:
            return processes
        processes *= 2
    return None
