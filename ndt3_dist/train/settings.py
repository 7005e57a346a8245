"""Settings of a run: what follows from GPUs and checkpoints, what a later start changed."""

import torch
import yaml

from ndt3_dist import storage
from ndt3_dist.checkpoint.steps import Checkpoint
from ndt3_dist.engines.memory import check_fits, largest_micro_batch
from ndt3_dist.errors import BadInput
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.ranks import gather

FILE = "config.yaml"
STARTS = "starts.jsonl"
"""One line a start."""
LEASE = "lease.json"
"""Mark of the process that writes a run."""


def with_micro_batch(config: PretrainConfig, rows: int) -> PretrainConfig:
    """The config with `train.micro_batch`, where it leaves that open."""
    if config.train.micro_batch:
        return config
    train = config.train.model_copy(update={"micro_batch": rows})
    return config.model_copy(update={"train": train})


def as_begun(config: PretrainConfig, start: Checkpoint | None) -> PretrainConfig:
    """The config with what was chosen when the run began."""
    begun = start.meta["config"]["train"]["micro_batch"] if start else 0
    return with_micro_batch(config, begun)


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
    storage.write_bytes(storage.join(run, FILE), text.encode())
