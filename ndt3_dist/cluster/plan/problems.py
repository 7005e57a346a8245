"""What is wrong with a config on some GPUs: all of it at once, with the nearest that works.

Where pretraining refuses, the very function that refuses there is asked, so that the words are the
same. What it would take and nobody can want is said, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ndt3_dist.cluster.plan.corpus_size import CorpusSize
from ndt3_dist.cluster.plan.run_length import Cluster, fitting
from ndt3_dist.config import load_config, parse_scalar, read_values, set_key
from ndt3_dist.engines.engine import accumulation
from ndt3_dist.engines.launcher import check_ranks
from ndt3_dist.errors import BadInput
from ndt3_dist.train.loop import total_steps
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.settings import with_micro_batch
from ndt3_dist.train.start import check_steps


@dataclass(frozen=True)
class Problem:
    """One of a plan.

    Attributes:
        said: In words; where it is refused those of pretraining.
        refused: Whether pretraining would not start.
        instead: Overrides that help, `section.key=value`.
    """

    said: str
    refused: bool
    instead: tuple[str, ...] = ()


def load(path: Path, overrides: Sequence[str]) -> tuple[PretrainConfig, list[Problem]]:
    """A config, and what its schema refuses of it; that of the nearest one that it takes.

    Raises:
        BadInput: There is none near.
    """
    try:
        return load_config(PretrainConfig, path, overrides), []
    except BadInput as e:
        values, said = read_values(PretrainConfig, path), str(e)
        for override in overrides:
            key, _, text = override.partition("=")
            set_key(values, key, parse_scalar(text, key))
        ways = repairs(values)
        try:
            found = load_config(PretrainConfig, path, [*overrides, *ways])
        except BadInput:
            raise e from None
        return found, [Problem(said, True, tuple(ways))]


def repairs(values: dict) -> list[str]:
    """Overrides for what sections of a config contradict in each other."""
    train, validation = values.get("train") or {}, values.get("validation") or {}
    ways, batch, micro = [], train.get("global_batch"), train.get("micro_batch", 1)
    if isinstance(batch, int) and isinstance(micro, int) and micro > 0 and batch % micro > 0:
        best = max(n for n in range(1, min(batch, micro) + 1) if batch % n == 0)
        ways.append(f"train.micro_batch={best}")
    if validation.get("patience") and not validation.get("every_steps"):
        ways.append("validation.every_steps=250")
    if train.get("zero_stage") == 0 and (
        train.get("precision", "bf16") == "bf16" or train.get("offload")
    ):
        ways.append("train.zero_stage=1")
    if train.get("overlap") and train.get("zero_stage", 1) != 2:
        ways.append("train.overlap=false")
    if train.get("ranks") and train.get("min_ranks", 0) > train["ranks"]:
        ways.append(f"train.min_ranks={train['ranks']}")
    return ways


def problems(config: PretrainConfig, size: CorpusSize, cluster: Cluster) -> list[Problem]:
    """All of them, those first that pretraining refuses."""
    found: list[Problem] = []
    train, gpus = config.train, cluster.gpus

    def ask(call: Callable[[], object], ways: Callable[[], Sequence[str]]) -> None:
        try:
            call()
        except BadInput as e:
            found.append(Problem(str(e), True, tuple(ways())))

    ask(lambda: check_ranks(train.ranks, gpus, train.min_ranks), lambda: [f"train.ranks={gpus}"])
    rows = with_micro_batch(config, 1).train
    ask(lambda: accumulation(rows, gpus), lambda: [shared(config, gpus)])
    ask(lambda: fitting(config, cluster), lambda: smaller(config, cluster))
    ask(lambda: check_steps(config, size.windows), lambda: [within(config, size, gpus)])
    return found + [Problem(*p) for p in doubts(config, size, gpus)]


def with_ways(
    config: PretrainConfig, size: CorpusSize, cluster: Cluster
) -> tuple[PretrainConfig | None, tuple[str, ...]]:
    """The nearest config that pretraining takes, and the overrides to it; None where none is."""
    every: dict[str, str] = {}
    for _ in range(4):  # one change may ask for another
        refused = [p for p in problems(config, size, cluster) if p.refused]
        if not refused:
            return config, tuple(f"{k}={v}" for k, v in every.items())
        for way in (way for p in refused for way in p.instead):
            key, _, text = way.partition("=")
            every[key] = text
            config = changed(config, key, parse_scalar(text, key))
    return None, ()


def changed(config: PretrainConfig, key: str, value: object) -> PretrainConfig:
    """The config with one key of a section set."""
    section, _, name = key.partition(".")
    part = getattr(config, section).model_copy(update={name: value})
    return config.model_copy(update={section: part})


def shared(config: PretrainConfig, gpus: int) -> str:
    """The nearest batch that ranks can share."""
    part = gpus * (config.train.micro_batch or 1)
    return f"train.global_batch={max(1, round(config.train.global_batch / part)) * part}"


def within(config: PretrainConfig, size: CorpusSize, gpus: int) -> str:
    """The largest batch that ranks can share and that is a hundredth of the run."""
    part = gpus * (config.train.micro_batch or 1)
    rows = size.rows * config.train.epochs
    return f"train.global_batch={max(1, int(rows / 100 / part)) * part}"


def smaller(config: PretrainConfig, cluster: Cluster) -> list[str]:
    """The gentlest change by which a step fits the card; none where nothing does."""
    rows = config.train.micro_batch
    fewer = [n for n in range(rows - 1, 0, -1) if config.train.global_batch % n == 0]
    last = {"micro_batch": 1} if rows else {}
    every = [{"micro_batch": n} for n in fewer]
    for more in ({}, {"zero_stage": 3}, {"zero_stage": 3, "offload": True}):
        every.append({**last, "recompute": True, **more})
    for change in every:
        train = config.train.model_copy(update=change)
        try:
            fitting(config.model_copy(update={"train": train}), cluster)
        except BadInput:
            continue
        return [f"train.{key}={str(value).lower()}" for key, value in change.items()]
    return []


def doubts(config: PretrainConfig, size: CorpusSize, gpus: int):
    """What would run, and hardly as it was meant: words, False, overrides."""
    train, optim, data = config.train, config.optim, config.data
    steps = total_steps(config, size.rows * train.epochs / train.global_batch)
    epochs = steps * train.global_batch / size.rows
    if optim.warmup_epochs >= epochs:
        yield (
            f"optim.warmup_epochs {optim.warmup_epochs:g} outlasts the run, which ends after "
            f"{epochs:.3g} epochs: optim.lr is never reached",
            False,
            (f"optim.warmup_epochs={epochs / 8:.2g}",),
        )
    if optim.schedule == "wsd" and optim.stable_epochs >= optim.decay_epochs:
        yield (
            f"optim.stable_epochs {optim.stable_epochs:g} is not before optim.decay_epochs "
            f"{optim.decay_epochs:g}: the learning rate falls at once",
            False,
            (f"optim.stable_epochs={0.8 * optim.decay_epochs:g}",),
        )
    if optim.decay_epochs < epochs:
        yield (
            f"optim.decay_epochs {optim.decay_epochs:g} is before the run's end, "
            f"{epochs:.3g} epochs: the rest runs at optim.lr_min",
            False,
            (f"optim.decay_epochs={epochs:.3g}",),
        )
    if config.checkpoint.every_steps >= steps:
        yield (
            f"checkpoint.every_steps {config.checkpoint.every_steps} is not before the last step, "
            f"{steps}: a run that is killed begins again",
            False,
            (f"checkpoint.every_steps={max(1, steps // 10)}",),
        )
    if config.validation.every_steps > steps:
        yield (
            f"validation.every_steps {config.validation.every_steps} is beyond the last step, "
            f"{steps}: there is one score, at the end",
            False,
            (f"validation.every_steps={max(1, steps // 10)}",),
        )
    part = gpus * (train.micro_batch or 1)
    if data.lanes % part and not data.mixture and gpus > 1:
        micro = f" x {train.micro_batch} rows" if train.micro_batch else ""
        yield (
            f"data.lanes {data.lanes} is no multiple of {gpus} ranks{micro}: each host reads "
            "nearly every shard",
            False,
            (f"data.lanes={-(-data.lanes // part) * part}",),
        )
    blocks = max(1, size.windows // data.block_samples)
    if blocks < data.lanes:
        yield (
            f"data.lanes {data.lanes} are more than the {blocks} blocks of {data.block_samples} "
            "windows: some lanes walk parts of one block",
            False,
            (f"data.block_samples={max(1, size.windows // data.lanes)}",),
        )
    if train.fp8 != "off":
        yield (
            f"train.fp8 {train.fp8}: its speed and memory were measured nowhere; reckoned as bf16",
            False,
            (),
        )
    if gpus & (gpus - 1) and train.precision == "bf16":
        yield (
            f"{gpus} ranks are no power of two: losses will be those of other numbers of ranks to "
            "about 1e-3, not to the last bit",
            False,
            (),
        )
