"""A run of NDT3's original code, recorded in a folder, and our model on the same weights and batch.

The folder holds weights.safetensors, batch.safetensors, outputs.safetensors,
weights_after_3_adamw_steps.safetensors and expected.json, under upstream's names. Sizes come from
expected.json and the weights. Whatever is missing or does not fit is a BadInput that names it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ndt3_dist.config import check
from ndt3_dist.errors import BadInput
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.space_ids import SpaceIds
from ndt3_dist.model.tokens import ON_HOST, PackedTokens
from ndt3_dist.upstream.names import to_upstream


class Named(dict):
    """Entries of one file; one that is missing is a BadInput that names file and key."""

    def __init__(self, file: Path, entries: dict, prefix: str = ""):
        super().__init__({k: _named(file, v) for k, v in entries.items()})
        self.file, self.prefix = file, prefix

    def __missing__(self, key: str):
        raise BadInput(f"{self.file}: no {self.prefix}{key} in it; record the original's run again")

    def has(self, prefix: str) -> bool:
        return any(key.startswith(prefix) for key in self)

    def part(self, prefix: str) -> "Named":
        """Entries below a prefix such as `tune_batch.`, without it."""
        inside = {k.removeprefix(prefix): v for k, v in self.items() if k.startswith(prefix)}
        return Named(self.file, inside, self.prefix + prefix)


def _named(file: Path, value):
    if isinstance(value, list):
        return [_named(file, v) for v in value]
    return Named(file, value) if isinstance(value, dict) else value


@dataclass(frozen=True)
class Original:
    """What the folder holds."""

    expected: Named
    weights: Named
    batch: Named
    outputs: Named
    after: Named

    @classmethod
    def read(cls, folder: str | Path) -> "Original":
        folder = Path(folder)
        if not folder.is_dir():
            raise BadInput(f"{folder}: no such folder; expected a recorded run of NDT3's own code")
        file = folder / "expected.json"
        try:
            expected = json.loads(file.read_text())
        except FileNotFoundError as e:
            raise BadInput(f"{file}: no such file; record the original's run again") from e
        except ValueError as e:
            raise BadInput(f"{file}: not valid JSON ({e})") from e
        if not isinstance(expected, dict):
            raise BadInput(f"{file}: expected keys with values, found {type(expected).__name__}")
        names = ("weights", "batch", "outputs", "weights_after_3_adamw_steps")
        return cls(Named(file, expected), *(_tensors(folder / f"{n}.safetensors") for n in names))

    def config(self, behavior_dim: int = 0, context_tokens: bool = True) -> ModelConfig:
        """Our config of the recorded model; its tasks after a transfer may differ."""
        transformer, data = self.expected["transformer"], self.expected["dataset"]
        if transformer["dropout"]:
            raise BadInput(
                f"{self.expected.file}: dropout {transformer['dropout']}; only a run without "
                "dropout can be compared"
            )

        def size(name: str, axis: int = 0) -> int:
            return self.weights[to_upstream(name)].shape[axis]

        values = {
            "layers": transformer["n_layers"],
            "dim": transformer["n_state"],
            "heads": transformer["n_heads"],
            "feedforward": size("blocks.0.mlp.down.weight", 1),
            "dropout": 0,
            "attention_dropout": 0,
            "channels_per_token": data["neurons_per_token"],
            "max_channels": data["max_channels"],
            "behavior_dim": behavior_dim or data["behavior_dim"],
            "max_space": size("space.weight") - 1,
            "count_clip": size("spike_in.weight") - 1,
            "count_classes": size("spike_out.weight") // data["neurons_per_token"],
            "max_return": size("return_in.weight") - 1,
            "context_tokens": context_tokens,
        }
        return check(ModelConfig, values, str(self.expected.file))

    def model(self, config: ModelConfig) -> NDT3:
        """Our model with the recorded weights."""
        model = NDT3(config)
        weights = {n: self.weights[to_upstream(n)] for n, _ in model.named_parameters()}
        for name, parameter in model.named_parameters():
            if weights[name].shape != parameter.shape:
                raise BadInput(
                    f"{self.weights.file}: {to_upstream(name)} is {tuple(weights[name].shape)}, "
                    f"expected.json makes it {tuple(parameter.shape)}"
                )
        model.load_state_dict(weights)
        return model


ALL_BINS = range(1 << 30)


def _tensors(file: Path) -> Named:
    if not file.is_file():
        raise BadInput(f"{file}: no such file; record the original's run again")
    try:
        return Named(file, load_file(file))
    except (SafetensorError, OSError) as e:
        raise BadInput(f"{file}: not a readable safetensors file ({e})") from e


def pack(batch: Named, config: ModelConfig, blank: range = ALL_BINS) -> dict[str, np.ndarray]:
    """Upstream's padded batch as the arrays of packed tokens.

    Args:
        batch: As the original's model receives it; constraint and return are optional.
        config: Model it is for.
        blank: Covariate inputs are blanked at slots whose target lies in one of these bins.
    Returns:
        Arrays named as in `PackedTokens`; `covariates` are inputs, in slot order. Targets are in
        batch order (`targets_of`): upstream leaves a cropped bin 100 at time 100, its mark of a
        dummy token, sorts it to the end of the row, and still scores it in the order of the batch.
    """
    ids = SpaceIds.of(config)
    times = [("spike", batch["time"], batch["position"] + ids.spikes, batch["length"])]
    space = batch["covariate_space"] + ids.covariates
    times.append(("kin", batch["covariate_time"], space, batch["covariate_length"]))
    if "constraint" in batch:
        space = batch["constraint_space"] + ids.constraint
        times.append(("con", batch["constraint_time"], space, batch["constraint_length"]))
    if "task_return" in batch:
        space = torch.full_like(batch["task_return_time"], ids.returns)
        times.append(("ret", batch["task_return_time"], space, batch["return_length"]))
    lists: dict[str, list] = {n: [] for n in PackedTokens.__dataclass_fields__ if n not in ON_HOST}
    seqlens = []
    for row in range(len(batch["length"])):
        parts = [  # time, space, modality, index
            (t, s, modality, i)
            for modality, bins, spaces, length in times
            for i, (t, s) in enumerate(zip(bins[row].tolist(), spaces[row].tolist(), strict=True))
            if i < length[row]
        ]
        parts.sort(key=lambda p: p[0] * config.max_space + p[1])
        begin = sum(seqlens)
        for slot, (time, space, modality, i) in enumerate(parts, start=begin):
            lists["time"].append(time)
            lists["space"].append(space)
            if modality == "spike":
                lists["spikes"].append(batch["spikes"][row, i, :, 0].numpy())
                lists["spike_channels"].append(int(batch["channel_counts"][row, i]))
                lists["spike_hidden"].append(False)
                lists["spike_slot"].append(slot)
            elif modality == "kin":
                following = parts[min(slot + 1 - begin, len(parts) - 1)][0]
                lists["covariates"].append(float(batch["bhvr_vel"][row, i, 0]))
                lists["covariate_valid"].append(bool(batch["bhvr_mask"][row, i]))
                lists["covariate_slot"].append(slot)
                lists["covariate_blank"].append(following in blank)
            elif modality == "con":
                lists["constraint"].append(batch["constraint"][row, i].numpy())
                lists["constraint_slot"].append(slot)
            else:
                pair = [batch["task_return"][row, i, 0], batch["task_reward"][row, i, 0]]
                lists["returns"].append([int(p) for p in pair])
                lists["return_slot"].append(slot)
        seqlens.append(len(parts))
    arrays = {n: np.array(v, KINDS.get(n, np.int64)) for n, v in lists.items()}
    arrays["spikes"] = arrays["spikes"].reshape(-1, config.channels_per_token)
    arrays["constraint"] = arrays["constraint"].reshape(-1, 3)
    arrays["returns"] = arrays["returns"].reshape(-1, 2)
    arrays["cu_seqlens"] = np.cumsum([0, *seqlens]).astype(np.int32)
    return arrays


KINDS = {
    "spikes": np.uint8,
    "covariates": np.float32,
    "constraint": np.float32,
    "spike_hidden": bool,
    "covariate_valid": bool,
    "covariate_blank": bool,
}


def targets_of(batch: Named) -> tuple[np.ndarray, np.ndarray]:
    """Covariate targets and whether they count, (covariate_tokens,), in batch order."""
    lengths = batch["covariate_length"]
    values = unpad(batch, "bhvr_vel", lengths)[:, 0]
    return values.numpy(), unpad(batch, "bhvr_mask", lengths).numpy()


def unpad(entries: Named, key: str, lengths: torch.Tensor) -> torch.Tensor:
    """The real tokens of padded rows, row after row.

    Args:
        entries: Where they are.
        key: (rows, padded, ...), or the same with rows laid end to end.
        lengths: Real tokens of each row, (rows,).
    Raises:
        BadInput: It does not have so many rows or tokens.
    """
    padded = entries[key]
    if len(padded) != len(lengths) or padded.ndim < 2:
        room, rest = divmod(len(padded), len(lengths))
        if rest:
            raise BadInput(
                f"{entries.file}: {entries.prefix}{key} has {len(padded)} tokens, which "
                f"{len(lengths)} rows do not share"
            )
        padded = padded.unflatten(0, (len(lengths), room))
    if padded.shape[1] < lengths.max():
        raise BadInput(
            f"{entries.file}: {entries.prefix}{key} has rows of {padded.shape[1]} tokens, the "
            f"batch has {int(lengths.max())}"
        )
    return padded[torch.arange(padded.shape[1]) < lengths[:, None]]
