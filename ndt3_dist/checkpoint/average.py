"""A mean of the weights of exports: between a pretrained and a tuned one, or of several seeds.

The result has the normalisation of the last export, so that it decodes what that decodes, and the
lineage of all. What was fitted to one export's hidden states in closed form has no mean: filters of
covariates are refused, gains of expected counts are left out, and both is said.

Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" and "Model soups".
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ndt3_dist import log, storage
from ndt3_dist.checkpoint import lineage
from ndt3_dist.checkpoint.export import describe_export, write_export
from ndt3_dist.errors import BadInput
from ndt3_dist.model.load import read_export_config, read_normalisation, read_weights
from ndt3_dist.model.model_config import TRAINING_FIELDS
from ndt3_dist.model.readout import told_readouts


def average(exports: Sequence[str], out: str | Path, weights: Sequence[float]) -> dict:
    """Write the mean of some exports, in float32.

    Args:
        exports: Folders; what is no weight is the last one's.
        out: Folder to make.
        weights: Of each export, none negative; they are shared out.
    Returns:
        The new config.json.
    Raises:
        BadInput: The exports are of several architectures or bin sizes, or have filters.
        CheckpointCorrupt: One of them is damaged.
    """
    if len(exports) < 2 or len(weights) != len(exports):
        raise BadInput(
            f"{len(exports)} exports and {len(weights)} weights; expected at least two exports, "
            "and a weight of each"
        )
    total = math.fsum(weights)
    if not math.isfinite(total) or total <= 0 or min(weights) < 0:
        raise BadInput(f"weights {[*weights]}; expected numbers from 0 up, not all of them 0")
    configs = [read_export_config(export) for export in exports]
    check_alike(exports, configs)
    shares = [weight / total for weight in weights]
    mean: dict[str, torch.Tensor] = {}
    for export, share in zip(log.progress(exports, "reading exports"), shares, strict=True):
        read = read_weights(export)
        shapes = [{name: tuple(t.shape) for name, t in some.items()} for some in (read, mean)]
        if mean and shapes[0] != shapes[1]:
            wrong = sorted({*shapes[0].items()} ^ {*shapes[1].items()})[:3]
            raise BadInput(
                f"{exports[0]} and {export} differ in {wrong}; expected exports of one architecture"
            )
        parts = {name: share * tensor.double() for name, tensor in read.items()}
        mean = {name: mean[name] + part for name, part in parts.items()} if mean else parts
    found = {name: tensor.float() for name, tensor in mean.items()}
    last = configs[-1]["trained"]
    averaged = [
        {
            "run": config["trained"].get("run"),
            "step": config["trained"].get("step"),
            "sha256": storage.sha256_file(Path(export) / "model.safetensors"),
            "share": share,
        }
        for export, config, share in zip(exports, configs, shares, strict=True)
    ]
    stages = lineage.union([lineage.of_export(config) for config in configs])
    trained = {**last, "lineage": stages, "averaged": averaged}
    config = describe_export(configs[-1]["model"], found, "fp32", trained)
    write_export(out, found, config, read_normalisation(exports[-1]))
    return config


def check_alike(exports: Sequence[str], configs: Sequence[dict]) -> None:
    """Raises BadInput where exports cannot be averaged; says what is left out."""
    first, gains = architecture(configs[0]), []
    bins = read_normalisation(exports[0])["bin_size_ms"]
    for export, config in zip(exports, configs, strict=True):
        other = architecture(config)
        if changed := [k for k in {**first, **other} if first.get(k) != other.get(k)]:
            told = ", ".join(f"{k} {first.get(k)} and {other.get(k)}" for k in changed)
            raise BadInput(
                f"{exports[0]} and {export} differ in {told}; expected exports of one architecture"
            )
        if (own := read_normalisation(export)["bin_size_ms"]) != bins:
            raise BadInput(f"{exports[0]} has bins of {bins:g} ms, {export} of {own:g}")
        for told in told_readouts(config):
            if "hidden" in told["shapes"]:
                raise BadInput(
                    f"{export}: reads covariates by filters that were fitted to its hidden states, "
                    "which have no mean; average the exports that they were fitted to, then fit "
                    "filters to the mean (finetune.py train.steps=0 readout.history=...)"
                )
            gains.append(export)
    if gains:
        log.say(
            f"gains of expected counts belong to one export and are left out ({', '.join(gains)}): "
            "bits per spike are those of the spike head alone"
        )


def architecture(config: dict) -> dict[str, Any]:
    """What of an export's section `model` decides the shapes and meanings of its weights."""
    return {k: v for k, v in config["model"].items() if k not in TRAINING_FIELDS}
