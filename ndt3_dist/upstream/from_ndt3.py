"""From an upstream Lightning checkpoint to an export.

Every parameter of ours is loaded, newly initialised or fails the import, and every entry of
upstream's state dict is used, skipped or fails it; a table says which. A fine-tuned checkpoint has
no constraint and return parts: those are new, and the model leaves such tokens out. The export has
no sessions, since upstream keeps no scales.

Source: joel99/ndt3 at 472466a.
"""

import os
import shutil
from pathlib import Path

from safetensors.torch import save_file

from ndt3_dist import storage
from ndt3_dist.checkpoint.export import describe_export, write_export
from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.upstream.deepspeed_folder import open_checkpoint
from ndt3_dist.upstream.hyperparameters import number, read_config
from ndt3_dist.upstream.lightning import LightningFile
from ndt3_dist.upstream.pickles import brief
from ndt3_dist.upstream.state_dict import (
    make_plan,
    read_optimizer,
    read_weights,
    state_dict,
)

OPTIMIZER = "optimizer.safetensors"
"""AdamW's moments in an export: `exp_avg.NAME` and `exp_avg_sq.NAME`, float32."""


def import_checkpoint(
    path: str | Path, out: str | Path, allow_partial: bool = False, with_optimizer: bool = False
) -> tuple[dict, list[dict]]:
    """Write an upstream checkpoint as an export.

    Args:
        path: Its file, or the folder that DeepSpeed has made of it.
        out: Folder to make; it appears whole or not at all.
        allow_partial: Go on where entries are missing, unexpected or of another shape.
        with_optimizer: Also write AdamW's moments, as optimizer.safetensors.
    Returns:
        The export's config.json, and the rows of the table of outcomes.
    Raises:
        BadInput: `out` exists, or the checkpoint holds no settings.
        CheckpointCorrupt, Unsupported: It cannot be imported; names the entries.
    """
    folder = Path(out).absolute()  # "." has no name
    if storage.is_remote(out):
        raise BadInput(f"{out}: exports are written to a local folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder}: exists and is not empty; choose another folder or remove it")
    with open_checkpoint(path) as file:
        config = read_config(file, state_dict(file)[0])
        plan = make_plan(file, config)
        if plan.problems and not allow_partial:
            first = "; ".join(plan.problems[:5]) + ("; ..." if len(plan.problems) > 5 else "")
            raise CheckpointCorrupt(
                f"{path}: {len(plan.problems)} entries do not fit the model that its "
                f"hyper_parameters describe: {first}; --allow-partial takes what fits"
            )
        weights = read_weights(file, config, plan)
        moments, trained = {}, trained_of(file)
        if with_optimizer:
            moments, settings = read_optimizer(file, plan, weights)
            trained["optimizer"] = {"file": OPTIMIZER, **settings}
        normalisation = normalisation_of(file)
    trained["new"] = plan.new
    described = describe_export(config, weights, "fp32", trained)
    staging = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    try:
        write_export(staging, weights, described, normalisation)
        storage.write_bytes(staging / "README.md", model_card(described, normalisation).encode())
        if moments:
            save_file(moments, str(staging / OPTIMIZER), metadata={"format": "pt"})
            storage.as_new(staging / OPTIMIZER)
        staging.replace(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return described, plan.rows


def trained_of(file: LightningFile) -> dict:
    """Step, epochs and source of the checkpoint, for config.json."""
    step, epoch = (file.content.get(k) for k in ("global_step", "epoch"))
    return {
        "run": file.origin.name,
        "step": step if type(step) is int else 0,
        "epochs": float(epoch) if type(epoch) is int else 0.0,
        "corpus": "unknown",
        "imported": {"from": "joel99/ndt3", "sha256": file.sha256()},
    }


def normalisation_of(file: LightningFile) -> dict:
    """Bin size and window of the training; no sessions, since upstream keeps no scales."""
    bin_ms = number(file, float, "data_attrs.bin_size_ms", "root.dataset.bin_size_ms")
    bins = number(file, int, "data_attrs.max_trial_length", "root.dataset.max_trial_length")
    return {"bin_size_ms": bin_ms, "window_bins": bins, "sessions": {}}


def model_card(config: dict, normalisation: dict) -> str:
    """The README.md of an imported export."""
    model, trained = config["model"], config["trained"]
    new = ", ".join(trained["new"]) or "none"
    return f"""# NDT3, {config["parameters"]:,} parameters

{model["layers"]} layers of width {model["dim"]}, {model["heads"]} heads, {config["dtype"]} weights.
Bins of {normalisation["bin_size_ms"]:g} ms. Imported from `{brief(trained["run"])}`, a checkpoint
of joel99/ndt3 after {trained["step"]} steps, sha256 `{trained["imported"]["sha256"][:16]}`.
Parameters that it did not have and that are newly initialised: {new}.
Nobody wrote down which sessions it has seen.

    import ndt3_dist
    model = ndt3_dist.load_model("this folder")

Upstream keeps no scales of sessions: predictions are in units of the scale of the session that is
decoded, which a corpus's manifest holds.
"""
