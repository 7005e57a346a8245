"""A run on so many GPUs: its steps, hours, cost and efficiency, and the same for any number."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ndt3_dist.cluster.plan.corpus_size import CorpusSize
from ndt3_dist.cluster.plan.network import Exchange, Fabric, exchange
from ndt3_dist.cluster.plan.speed import computing, work_of
from ndt3_dist.engines.engine import accumulation
from ndt3_dist.engines.memory import check_fits, count_parameters, largest_micro_batch
from ndt3_dist.errors import BadInput
from ndt3_dist.model.flops import CARDS, Card
from ndt3_dist.train.loop import total_steps
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.settings import with_micro_batch

GPUS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Of the curve."""


@dataclass(frozen=True)
class Cluster:
    """What is rented.

    Attributes:
        name: Of a card in `model.flops.CARDS`.
        gpus: In all.
        per_node: Of a host.
        network: Between hosts (`network.NETWORKS`).
        mfu: That is taken as given; None = by the roofline.
        price: Of a GPU's hour; None where no cost is asked for.
    """

    name: str
    gpus: int
    per_node: int = 8
    network: str = "ib-hdr"
    mfu: float | None = None
    price: float | None = None

    @property
    def card(self) -> Card:
        return CARDS[self.name]

    @property
    def fabric(self) -> Fabric:
        return Fabric(self.card, self.gpus, self.per_node, self.network)


@dataclass(frozen=True)
class Course:
    """A run from its first step to its last.

    Attributes:
        gpus, nodes: It is on.
        micro_batch, accumulation: Rows of a forward pass; passes of a rank in a step.
        computing_s, optimiser_s: Of a step, without what it waits for.
        network: Of a step.
        step_s: All of it.
        validation_s: Of all validations together.
        steps: Of the run.
        hours, gpu_hours: Of the run.
        cost: Where a price was given.
        tokens_per_s: Of all GPUs.
        mfu: Of the run, what it waits for included.
    """

    gpus: int
    nodes: int
    micro_batch: int
    accumulation: int
    computing_s: float
    optimiser_s: float
    network: Exchange
    step_s: float
    validation_s: float
    steps: int
    hours: float
    gpu_hours: float
    cost: float | None
    tokens_per_s: float
    mfu: float


def fitting(config: PretrainConfig, cluster: Cluster) -> PretrainConfig:
    """The config with a micro-batch that a start on these GPUs would take.

    Raises:
        BadInput: As that start would.
    """
    size = config.ndt3, config.train, config.data.row_tokens, cluster.gpus, cluster.card.memory
    if config.train.micro_batch:
        check_fits(*size)
    return with_micro_batch(config, config.train.micro_batch or largest_micro_batch(*size))


def course_of(config: PretrainConfig, size: CorpusSize, cluster: Cluster) -> Course:
    """What a run would take.

    Raises:
        BadInput: A start on these GPUs would refuse it.
    """
    config = fitting(config, cluster)
    train, gpus = config.train, cluster.gpus
    if train.precision == "fp32" and not cluster.mfu:
        raise BadInput("train.precision is fp32, whose speed is not known here; give --mfu")
    passes = accumulation(train, gpus)
    work, parameters = work_of(config.ndt3, size.window), count_parameters(config.ndt3)
    row = config.data.row_tokens * size.fill
    parts = computing(
        work, cluster.card, train, parameters, train.micro_batch * row, passes, gpus,
        cluster.per_node, cluster.mfu,
    )  # fmt: skip
    sent = exchange(cluster.fabric, parameters, train, passes, parts.micro_batches)
    step_s = parts.micro_batches + parts.optimiser + sent.exposed
    steps = total_steps(config, size.rows * train.epochs / train.global_batch)
    tokens = train.global_batch * row
    validation = 0.0
    if config.validation.every_steps:
        a_token = parts.micro_batches * gpus / tokens / 3  # a forward pass is a third of a step
        times = steps // config.validation.every_steps
        validation = times * config.validation.windows * size.window.tokens * a_token / gpus
    hours = (steps * step_s + validation) / 3600
    return Course(
        gpus, cluster.fabric.nodes, train.micro_batch, passes, parts.micro_batches,
        parts.optimiser, sent, step_s, validation, steps, hours, hours * gpus,
        None if cluster.price is None else hours * gpus * cluster.price, tokens / step_s,
        tokens * work.needed / (step_s * gpus * cluster.card.flops),
    )  # fmt: skip


def curve(
    config: PretrainConfig, size: CorpusSize, cluster: Cluster, numbers: Sequence[int] = GPUS
) -> list[Course]:
    """The run on each number of GPUs that a start would take."""
    found = []
    for gpus in numbers:
        try:
            found.append(course_of(config, size, replace(cluster, gpus=gpus)))
        except BadInput:
            continue
    return found


def efficiency(course: Course, courses: Sequence[Course]) -> float:
    """Tokens a second and GPU over those on the fewest GPUs."""
    fewest = courses[0]
    return course.tokens_per_s / course.gpus / (fewest.tokens_per_s / fewest.gpus)


def shares(config: PretrainConfig, most: int = 1024) -> list[int]:
    """Numbers of GPUs among which a step's rows can be shared out evenly."""
    rows = config.train.global_batch // (config.train.micro_batch or 1)
    return [n for n in range(1, most + 1) if rows % n == 0]


def to_rent(
    config: PretrainConfig,
    size: CorpusSize,
    cluster: Cluster,
    deadline_h: float | None,
    budget: float | None,
) -> Course:
    """The fewest GPUs that are done in time; without a deadline the most that the budget pays.

    Raises:
        BadInput: There is no such number; says what comes nearest.
    """
    if budget is not None and cluster.price is None:
        raise BadInput("--budget needs --price, what an hour of one GPU costs")
    courses = curve(config, size, cluster, shares(config))
    if not courses:
        course_of(config, size, replace(cluster, gpus=1))  # raises, and says why
    paid = [c for c in courses if budget is None or (c.cost or 0) <= budget]
    done = [c for c in paid if deadline_h is None or c.hours <= deadline_h]
    if done:
        return done[0] if deadline_h is not None else min(done, key=lambda c: c.hours)
    fastest = min(courses, key=lambda c: c.hours)
    cheapest = min(courses, key=lambda c: c.cost or c.gpu_hours)
    raise BadInput(
        f"no number of {cluster.name} up to 1,024 does it: the fastest, {fastest.gpus}, take "
        f"{told(fastest)}; the cheapest, {cheapest.gpus}, take {told(cheapest)}; see train.epochs, "
        "--network, another --gpu"
    )


def told(course: Course) -> str:
    """Hours and cost in words."""
    cost = f" for {course.cost:,.0f}" if course.cost is not None else ""
    return f"{course.hours:,.1f} hours{cost}"
