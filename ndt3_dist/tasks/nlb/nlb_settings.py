"""How each dataset is trained and searched: a whole config of a training, and the searched space.

Source: the settings of AE Studio's winning entry. Its updates are passes over the trials, as epochs
are here. Spans of masked bins, which it lets grow from some thousand passes on, are there from the
start here (`ndt1_packing`).
"""

from typing import Any

from ndt3_dist.errors import BadInput
from ndt3_dist.shards.manifest import Manifest
from ndt3_dist.tasks.nlb.ndt1_config import BUILD
from ndt3_dist.tasks.nlb.nlb_datasets import dataset_of

BATCH = 64
"""Trials of a step."""
EVERY_EPOCHS = 20
"""Passes between validations."""
EPOCHS, WARMUP, PATIENCE, LAYERS, EMBED = 50_501, 5_000, 3_000, 4, 0
OTHERS = {
    "area2_bump": {"epochs": 40_001, "patience": 2_500, "embed": 2},
    "dmfc_rsg": {"patience": 4_000, "layers": 6},
    "mc_maze_small": {"warmup": 2_000, "patience": 2_000},
}
"""Datasets that differ."""


def config_of(dataset: str, corpus: str, manifest: Manifest, run: str, folder: str) -> dict:
    """The config of a training (`train.pretrain_config`), as plain data.

    Args:
        corpus: Of `ndt3 nlb data`; `manifest` is its own.
        run, folder: Name and place of the run.
    Raises:
        BadInput: It is no corpus of this dataset.
    """
    name = dataset_of(dataset)
    sessions = [s for s in manifest.sessions if "train" in s.windows]
    if len(sessions) != 1 or sessions[0].dataset != name.name:
        found = ", ".join(s.id for s in manifest.sessions)
        raise BadInput(
            f"{corpus} holds {found}; expected the train session of {name.name} alone, as ndt3 nlb "
            "data makes it"
        )
    bin_ms = round(manifest.bin_size_ms)
    units = {a.name: a.channels for a in sessions[0].arrays}
    trials = sessions[0].windows["train"].kept
    said = {"epochs": EPOCHS, "warmup": WARMUP, "patience": PATIENCE, "layers": LAYERS}
    said |= {"embed": EMBED, **OTHERS.get(name.name, {})}
    steps = -(-trials // BATCH)
    bins, forward = name.bins(bin_ms), name.forward_bins(bin_ms)
    embed, heads = said["embed"], 2
    if (units["heldin"] + units.get("heldout", 0)) * max(embed, 1) % heads:
        embed = heads  # an odd number of units has no two heads otherwise
    model: dict[str, Any] = {"build": BUILD, "heldin": units["heldin"]}
    model |= {"heldout": units.get("heldout", 0), "bins": bins, "forward": forward}
    model |= {"layers": said["layers"], "heads": heads, "embed": embed}
    counts = sessions[0].bins * (units["heldin"] + units.get("heldout", 0))
    model["first_rate"] = float(f"{max(sessions[0].spikes, 1) / counts:.3g}")
    return {
        "run": {"name": run, "dir": folder, "seed": 0},
        "data": {"corpus": corpus, "row_tokens": BATCH * (bins + forward)},
        "model": model,
        "optim": {
            "lr": 1e-3,
            "lr_min": 0.0,
            "schedule": "cosine",
            "warmup_epochs": said["warmup"],
            "warmup_init_factor": 0.0,
            "decay_epochs": said["epochs"],
            "weight_decay": 5e-5,
            "grad_clip": 200.0,
        },
        "train": {"epochs": said["epochs"], "global_batch": 1, "precision": "fp32"},
        "validation": {
            "every_steps": EVERY_EPOCHS * steps,
            "metric": "val_loss",
            "patience": said["patience"] // EVERY_EPOCHS,
        },
        "checkpoint": {"every_steps": 1 << 30, "keep_last": 1},
        "log": {"every_steps": 10 * EVERY_EPOCHS * steps},
    }


def space_of(dataset: str) -> dict[str, Any]:
    """What is searched, as `space` of a space.yaml."""
    name = dataset_of(dataset).name
    low, high, context, spans, random = 0.3, 0.7, [10, 100], 7, 0.8
    if name == "area2_bump":
        low, high, context, spans, random = 0.2, 0.6, [4, 100], 5, 0.9
    elif name == "dmfc_rsg":
        context, random = [40, 240], 0.9
    keys = "dropout", "dropout_rates", "dropout_embedding"
    space: dict[str, Any] = {f"model.{key}": {"uniform": [low, high]} for key in keys}
    space |= {f"model.context_{way}": {"int": context} for way in ("forward", "backward")}
    space |= {"optim.lr": {"loguniform": [1e-5, 5e-3]}}
    if name != "area2_bump":
        space["optim.warmup_epochs"] = {"int": [0, 2000]}
    space |= {
        "model.mask_random_ratio": {"uniform": [random, 1.0]},
        "model.mask_token_ratio": {"loguniform": [0.5, 1.0]},
        "model.mask_max_span": {"int": [1, spans]},
        "model.mask_ratio": {"uniform": [0.1, 0.4]},
        "optim.weight_decay": {"loguniform": [1e-8, 1e-3]},
    }
    return space
