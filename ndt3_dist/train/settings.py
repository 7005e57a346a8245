"""Settings of a run: what follows from GPUs and checkpoints, what a later start changed."""

from collections.abc import Sequence

import torch
import yaml

from ndt3_dist import storage
from ndt3_dist.checkpoint.steps import Checkpoint
from ndt3_dist.data.patterns import named
from ndt3_dist.engines.memory import check_fits, largest_micro_batch
from ndt3_dist.errors import BadInput
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.objective.identities import knowing
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.ranks import gather
from ndt3_dist.train.run_metrics import CONFIG


def with_micro_batch(config: PretrainConfig, rows: int) -> PretrainConfig:
    """The config with `train.micro_batch`, where it leaves that open."""
    if config.train.micro_batch:
        return config
    train = config.train.model_copy(update={"micro_batch": rows})
    return config.model_copy(update={"train": train})


def as_begun(config: PretrainConfig, start: Checkpoint | None) -> PretrainConfig:
    """The config with what was chosen when the run began."""
    if not start:
        return config
    begun = start.meta["config"]
    if isinstance(config.model, ModelConfig):
        config = with_identities(config, begun["model"].get("identities", ()))
    return with_micro_batch(config, begun["train"]["micro_batch"])


def with_identities(
    config: PretrainConfig, begun: Sequence[str], corpus: Corpus | None = None
) -> PretrainConfig:
    """The config with those that NDT3 knows, where it has a `context`.

    Args:
        begun: Of the run or the export that it goes on from; their rows stay.
        corpus: Whose sessions' identities are added, of those that `data` names.
    """
    model = config.model
    if not isinstance(model, ModelConfig) or not model.context:
        return config
    model = model.model_copy(update={"identities": tuple(begun) or model.identities})
    if corpus:
        sessions = corpus.manifest.sessions
        taken = named(corpus.path, [s.id for s in sessions], config.data)
        model = knowing(model, [s for s, t in zip(sessions, taken, strict=True) if t])
    return config.model_copy(update={"model": model})


def fitted(config: PretrainConfig, device: torch.device) -> PretrainConfig:
    """The config with a micro-batch that fits the smallest GPU; all ranks call it.

    Raises:
        BadInput: Nothing fits, or what fits a model of a user's own was asked for.
    """
    cards = gather(memory_of_card(device))
    card, ranks, model = min(cards), len(cards), config.model
    if not isinstance(model, ModelConfig):
        if config.train.micro_batch:
            return config
        raise BadInput(
            f"train.micro_batch is 0, and what a row of {model.build} takes is not known; give a "
            "number of rows"
        )
    size = model, config.train, config.data.row_tokens, ranks, card
    if config.train.micro_batch:
        if card:
            check_fits(*size)
        return config
    return with_micro_batch(config, largest_micro_batch(*size) if card else 1)


def memory_of_card(device: torch.device) -> int:
    """Bytes of a GPU; 0 for a CPU, where nothing is planned with."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0


def changed(before: dict, now: dict, above: str = "") -> dict[str, list]:
    """Dotted keys whose values differ, each with both; keys that came with a later version do not.

    Args:
        before, now: Configs as plain data.
    """
    found: dict[str, list] = {}
    for key, new in now.items():
        old, name = before.get(key, new), f"{above}{key}"
        if isinstance(old, dict) and isinstance(new, dict):
            found |= changed(old, new, f"{name}.")
        elif old != new:
            found[name] = [old, new]
    return found


def change_line(step: int, changes: dict[str, list]) -> str:
    """What is said of a start with other settings."""
    each = ", ".join(f"{key} {old} -> {new}" for key, (old, new) in changes.items())
    return f"settings changed after step {step}: {each}"


def write_config(config: PretrainConfig, run: str) -> None:
    """config.yaml: what trained the newest step of a run."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    storage.write_bytes(storage.join(run, CONFIG), text.encode())
