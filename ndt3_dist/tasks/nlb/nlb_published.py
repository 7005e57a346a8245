"""Published checkpoints of NDT1 (.pth with a yacs config), as snapshots of ours.

They are read as plain data (`upstream.lightning`): nothing that they name is imported or run. What
our NDT1 does not do is refused by the name of its setting.

Source: snel-repo/neural-data-transformers (model.py, runner.py) and the winning entry's archive,
Zenodo 5875246: DATASET/TRIAL.lve.pth (best masked loss), TRIAL.lfve.pth (best unmasked loss).
"""

from pathlib import Path
from typing import Any

import torch

from ndt3_dist.config import check
from ndt3_dist.errors import BadInput, CheckpointCorrupt, Unsupported
from ndt3_dist.tasks.nlb.ndt1_config import Ndt1Config
from ndt3_dist.tasks.nlb.nlb_datasets import dataset_of
from ndt3_dist.tasks.nlb.nlb_snapshots import save_weights
from ndt3_dist.upstream.lightning import LightningFile, View

MODEL = {
    "HIDDEN_SIZE": "hidden",
    "NUM_HEADS": "heads",
    "NUM_LAYERS": "layers",
    "EMBED_DIM": "embed",
    "DROPOUT": "dropout",
    "DROPOUT_RATES": "dropout_rates",
    "DROPOUT_EMBEDDING": "dropout_embedding",
    "CONTEXT_FORWARD": "context_forward",
    "CONTEXT_BACKWARD": "context_backward",
    "PRE_NORM": "pre_norm",
    "FIXUP_INIT": "fixup",
}
TRAIN = {
    "MASK_RATIO": "mask_ratio",
    "MASK_TOKEN_RATIO": "mask_token_ratio",
    "MASK_RANDOM_RATIO": "mask_random_ratio",
    "MASK_MAX_SPAN": "mask_max_span",
    "USE_ZERO_MASK": "zero_mask",
}
ONLY = {
    "NAME": "NeuralDataTransformer",
    "LEARNABLE_POSITION": True,
    "LINEAR_EMBEDDER": False,
    "LOGRATE": True,
    "SCALE_NORM": False,
    "CONTEXT_WRAP_INITIAL": False,
    "ACTIVATION": "relu",
}
"""Settings that must have these values."""
LAYER = {
    "self_attn.in_proj_weight": "qkv.weight",
    "self_attn.in_proj_bias": "qkv.bias",
    "self_attn.out_proj.weight": "out.weight",
    "self_attn.out_proj.bias": "out.bias",
    "linear1.weight": "up.weight",
    "linear1.bias": "up.bias",
    "linear2.weight": "down.weight",
    "linear2.bias": "down.bias",
    **{f"norm{i}.{part}": f"norm{i}.{part}" for i in (1, 2) for part in ("weight", "bias")},
}
"""Their names of a layer's weights -> ours."""
WHOLE = {
    "embedder.0.weight": "embed.weight",
    "transformer_encoder.norm.weight": "norm.weight",
    "transformer_encoder.norm.bias": "norm.bias",
    "decoder.0.weight": "readout.weight",
    "decoder.0.bias": "readout.bias",
}


def import_checkpoint(path: Path, dataset: str, heldin: int, out: Path, bin_ms: int = 5) -> Path:
    """Write a published checkpoint as a snapshot.

    Args:
        dataset: That it was trained on.
        heldin: Held-in units of it, which come first.
        out: Folder; the file is called as the checkpoint.
    Returns:
        The safetensors file.
    Raises:
        CheckpointCorrupt: It is damaged, or holds what is refused.
        Unsupported: It has a setting that our NDT1 does not do.
    """
    name = dataset_of(dataset)
    with LightningFile(path) as file:
        content = file.content
        try:
            model, training = content["config"]["MODEL"], content["config"]["TRAIN"]
            units, length = int(content["num_neurons"]), int(content["trial_length"])
            views = {k: v for k, v in content["state_dict"].items() if isinstance(v, View)}
            scores = _scores(content)
        except (KeyError, TypeError, AttributeError) as e:
            raise BadInput(
                f"{path}: no checkpoint of NDT1 ({e!r}); expected state_dict, config, num_neurons "
                "and trial_length"
            ) from e
        for key, value in ONLY.items():
            if model.get(key, value) != value:
                raise Unsupported(f"{path}: MODEL.{key} is {model[key]!r}; expected {value!r}")
        loss = model.get("LOSS", {}).get("TYPE", "poisson")
        if loss != "poisson" or model.get("DECODER", {}).get("LAYERS", 1) != 1:
            raise Unsupported(f"{path}: loss {loss}; expected poisson, read out by one layer")
        bins, forward = name.bins(bin_ms), name.forward_bins(bin_ms)
        if length != bins + forward or not heldin < units:
            raise BadInput(
                f"{path}: {units} units and trials of {length} bins; {dataset} has {bins} and "
                f"{forward} behind them, and {heldin} held-in units"
            )
        tensors = file.tensors({k: v for k, v in views.items() if k != "pos_encoder.pe"})
        order = file.tensor(views["pos_encoder.pe"]) if "pos_encoder.pe" in views else None
    options: dict[str, Any] = {ours: model[key] for key, ours in MODEL.items() if key in model}
    options |= {ours: training[key] for key, ours in TRAIN.items() if key in training}
    if model.get("FULL_CONTEXT"):
        options |= {"context_forward": -1, "context_backward": -1}
    options |= {"heldin": heldin, "heldout": units - heldin, "bins": bins, "forward": forward}
    if options.get("embed"):
        options["max_count"] = len(tensors["embedder.0.weight"]) - 2
    else:
        options["max_count"] = int(content.get("max_spikes") or 8)
    config = check(Ndt1Config, options, f"{path}: config")
    weights = renamed(tensors, order, config, path)
    to = out / f"{path.name.removesuffix('.pth')}.safetensors"
    save_weights(to, weights, config.model_dump(mode="json"), scores)
    return to


def _scores(content: dict) -> dict[str, float]:
    found = {"step": float(content.get("extra_state", {}).get("update", 0))}
    for key, ours in (("best_val", "val_loss"), ("best_unmasked_val", "val_loss_unmasked")):
        value = content.get(key, {}).get("value")
        if isinstance(value, int | float):
            found[ours] = float(value)
    return found


def renamed(
    tensors: dict[str, torch.Tensor], order: torch.Tensor | None, config: Ndt1Config, path: Path
) -> dict[str, torch.Tensor]:
    """Weights by our names.

    Args:
        order: Row of the table of positions that each bin has, (bins, 1).
    """
    tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
    found = {}
    for theirs, ours in WHOLE.items():
        if theirs in tensors:
            found[ours] = tensors.pop(theirs)
    for number in range(config.layers):
        for theirs, ours in LAYER.items():
            key = f"transformer_encoder.layers.{number}.{theirs}"
            if key not in tensors:
                raise CheckpointCorrupt(f"{path}: has no {key} of {config.layers} layers")
            found[f"layers.{number}.{ours}"] = tensors.pop(key)
    table = tensors.pop("pos_encoder.pos_embedding.weight", None)
    if table is None or len(table) < config.length:
        raise CheckpointCorrupt(f"{path}: has no table of {config.length} positions")
    rows = torch.arange(config.length) if order is None else order.flatten().long()
    if len(rows) != config.length or int(rows.min()) < 0 or int(rows.max()) >= len(table):
        raise CheckpointCorrupt(f"{path}: pos_encoder.pe leads out of the table of positions")
    found["position"] = table[rows]
    if tensors:
        raise CheckpointCorrupt(f"{path}: has weights {', '.join(sorted(tensors)[:3])} of nothing")
    return found
