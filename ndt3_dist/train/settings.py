"""Settings of a run, start by start: what was changed, and from which step on."""

import yaml

from ndt3_dist import storage
from ndt3_dist.train.pretrain_config import PretrainConfig

FILE = "config.yaml"
STARTS = "starts.jsonl"
"""One line a start."""
LEASE = "lease.json"
"""Mark of the process that writes a run."""


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
