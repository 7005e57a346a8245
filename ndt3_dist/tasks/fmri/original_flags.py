"""Flags, environment variables and parameter files of the original programs, in our words."""

import argparse
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ndt3_dist import log, plain_yaml
from ndt3_dist.errors import BadInput

ENVIRONMENT = {
    "features": ("FEATURES_PATH",),
    "params": ("PARAMS_PATH",),
    "features_dir": ("FEATURES_DIR",),
    "data_dir": ("DATA_DIR",),
    "output_dir": ("OUTPUT_DIR", "OUTPUTS_DIR", "CHECKPOINT_DIR"),
    "wandb_project": ("WANDB_PROJECT",),
}
"""Flag -> variables that stand for it where it is not given; flags win."""
PARAMS = {
    "epochs": "train.epochs",
    "batch_size": "train.batch",
    "lr": "optim.lr",
    "weight_decay": "optim.weight_decay",
    "warmup_epochs": "optim.warmup_epochs",
    "warmup_start_lr_factor": "optim.warmup_init_factor",
    "early_stop_patience": "train.patience",
    "lambda_mse": "model.mse",
    "modality_dropout_prob": "model.stream_dropout",
    "mask_prob": "model.mask",
    "fusion_hidden_dim": "model.hidden",
    "fusion_layers": "model.fusion_layers",
    "fusion_heads": "model.fusion_heads",
    "fusion_dropout": "model.dropout",
    "pred_layers": "model.layers",
    "pred_heads": "model.heads",
    "n_prepend_zeros": "model.before",
    "val_run": "data.val_run",
}
"""Key of the original's params.yaml -> ours."""
SAME = {
    "pred_dropout",
    "output_dim",
    "subject_count",
    "tr_sec",
    "num_workers",
    "prefetch_factor",
    "persistent_workers",
    "pin_memory",
    "fuse_mode",
    "rope_pct",
    "use_fusion_transformer",
    "modality_dropout_mode",
    "roi_log_interval",
    "yeo_networks",
    "num_pre_tokens",
}
"""Keys that say what is so here anyway, or how fast data is read."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The original's flags of training."""
    parser.add_argument("--features", metavar="YAML", help="the original's features.yaml")
    parser.add_argument("--params", metavar="YAML", help="the original's params.yaml")
    parser.add_argument("--features_dir", help="folder of the features")
    parser.add_argument("--data_dir", help="folder of the BOLD and the sample numbers")
    parser.add_argument("--output_dir", "--checkpoint_dir", help="folder of the runs")
    parser.add_argument("--seed", type=int, help="default with --params: drawn")
    parser.add_argument("--name", help="of the run")
    parser.add_argument("--device", choices=["cuda", "cpu", "auto"])
    parser.add_argument("--wandb_project")
    parser.add_argument("--wandb_entity")
    for flag in ("--no_diagnostics", "--diagnostics", "--profile"):
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)


def overrides(args: argparse.Namespace, environ: Mapping[str, str]) -> dict[str, Any]:
    """What flags, variables and the original's files say, by our dotted keys."""
    told = {k: v for k in vars(args) if (v := getattr(args, k)) is not None}
    for flag, names in ENVIRONMENT.items():
        for name in names:
            if flag not in told and environ.get(name):
                told[flag] = environ[name]
    found: dict[str, Any] = {}
    if path := told.get("features"):
        found["data.streams"] = streams_of(Path(path))
    if path := told.get("params"):
        found |= params_of(Path(path))
        found["run.seed"] = secrets.randbelow(1 << 31)
    keys = {"features_dir": "data.features_dir", "data_dir": "data.data_dir"}
    keys |= {"output_dir": "run.dir", "seed": "run.seed", "name": "run.name"}
    keys |= {"device": "train.device", "wandb_project": "log.wandb_project"}
    found |= {ours: told[flag] for flag, ours in keys.items() if flag in told}
    if args.wandb_project or environ.get("WANDB_MODE"):  # a login is asked of nobody else
        found["log.wandb"] = environ.get("WANDB_MODE", "online")
    return found


def read(path: Path) -> dict[str, Any]:
    try:
        values = plain_yaml.load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise BadInput(f"{path}: not valid YAML: {e}") from e
    if not isinstance(values, dict):
        raise BadInput(f"{path}: expected keys and values")
    return plain_yaml.as_numbers(values)


def streams_of(path: Path) -> dict[str, str]:
    """Streams of the original's features.yaml, in the order of its `input_dims`."""
    values = read(path)
    places, dims = values.get("features", values), values.get("input_dims", {})
    if not isinstance(places, dict):
        raise BadInput(f"{path}: features is no table of name -> folder")
    if lost := [name for name in dims if name not in places]:
        raise BadInput(f"{path}: input_dims has {', '.join(lost)}, features does not")
    return {str(name): str(places[name]) for name in (dims or places)}


def params_of(path: Path) -> dict[str, Any]:
    """The original's params.yaml in our keys; those without a meaning here are named."""
    values, found, lost = read(path), {"model.kind": "fusion_transformer", "train.window": 0}, []
    found |= {"train.batch": 4, "optim.weight_decay": 1e-4, "optim.lr": 1e-4}
    for key, value in values.items():
        if key in PARAMS:
            found[PARAMS[key]] = value
        elif key in ("val_name", "filter_name"):
            names = value if isinstance(value, list) else str(value or "").split(",")
            parts = [f"*{str(n).strip()}*" for n in names if str(n).strip()]
            found["data.val" if key == "val_name" else "data.exclude"] = parts
        elif key == "use_normalization":
            found["data.scale"] = bool(value)
        elif key not in SAME and value not in (0, 0.0, False, None, [], "", "none"):
            lost.append(key)
    if lost:
        log.warn(f"{path}: {', '.join(lost)} have no meaning here (docs/fmri.md says why)")
    return found
