"""Exports: portable weights that load with `model/` and `config.py` alone.

A folder with config.json, model.safetensors, normalisation.json and README.md; of a fine-tune also
readout.safetensors (`model.readout`). Loading imports no
function that the files name and unpickles nothing.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode

from ndt3_dist.config import check
from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.model.model_config import NDT3_BUILD, ModelConfig
from ndt3_dist.model.ndt3 import NDT3

FORMAT = "ndt3_dist.export"
VERSION = 1


class Unfilled(TorchFunctionMode):
    """A block in which random tensors are made and not drawn: their pages are not touched.

    As on torch's meta device, which would import sympy for them, in a second.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


def read_export_config(path: str | Path) -> dict:
    """The config.json of an export, checked for format and version."""
    folder = Path(path)
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointCorrupt(
            f"{folder}: no config.json, so no export; make one with "
            "`python checkpoints/convert.py export RUN OUT`"
        )
    try:
        config = json.loads(file.read_text())
    except ValueError as e:
        raise CheckpointCorrupt(f"{file}: not valid JSON ({e}); export again") from e
    if config.get("format") != FORMAT or config.get("version") != VERSION:
        raise CheckpointCorrupt(
            f"{file}: {config.get('format')} version {config.get('version')}, "
            f"expected {FORMAT} version {VERSION}"
        )
    return config


def read_normalisation(path: str | Path) -> dict:
    """The normalisation.json of an export: bin size, and covariates and scales of its sessions."""
    file = Path(path) / "normalisation.json"
    read_export_config(path)  # says so where there is no export at all
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as e:
        raise CheckpointCorrupt(f"{file}: cannot be read ({e}); export again") from e


def read_weights(path: str | Path, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """Weights of an export by name, in its dtype. Raises CheckpointCorrupt where one is damaged."""
    file = Path(path) / "model.safetensors"
    try:
        weights = load_file(str(file), device=str(device))
    except (SafetensorError, FileNotFoundError, OSError) as e:
        raise CheckpointCorrupt(f"{file}: cannot be read ({e}); export again") from e
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise CheckpointCorrupt(
                f"{file}: {name} has values that are not finite; export an earlier step"
            )
    return weights


def load_model(
    path: str | Path,
    device: torch.device | str = "cpu",
    build: Callable[[dict], Any] | None = None,
    **overrides,
) -> Any:
    """Open an export for inference or fine-tuning.

    Args:
        path: Folder of the export.
        device: Where the weights go.
        build: For a model that is not NDT3, the function that its config names as `model.build`;
            what a file names is never imported.
        overrides: Fields of `ModelConfig` that do not change the weights, such as dropout.
    Returns:
        The model in evaluation mode, in the dtype that was exported.
    Raises:
        CheckpointCorrupt: A file is missing or damaged, or weights do not fit the config.
    """
    folder = Path(path)
    values = {**read_export_config(folder)["model"], **overrides}
    if (name := values.get("build", NDT3_BUILD)) != NDT3_BUILD and build is None:
        raise BadInput(
            f"{folder}: holds a model of {name}, which is not imported because a file says so; "
            f"give the function itself: load_model(..., build={name.rpartition(':')[2]})"
        )
    try:
        config = None if build else check(ModelConfig, values, f"{folder}/config.json: model")
    except BadInput as e:
        raise CheckpointCorrupt(str(e)) from e
    file, weights = folder / "model.safetensors", read_weights(folder, device)
    if config:
        with Unfilled():
            model: Any = NDT3(config)
    else:
        assert build
        model = build(values)
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    found = {name: tuple(t.shape) for name, t in weights.items()}
    if expected != found:
        wrong = sorted({*expected.items()} ^ {*found.items()})[:3]
        raise CheckpointCorrupt(f"{file}: tensors do not fit config.json, such as {wrong}")
    model.load_state_dict(weights, strict=not build, assign=True)
    return model.to(device).eval()
