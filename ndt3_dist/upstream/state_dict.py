"""What becomes of an upstream checkpoint's state dict and optimiser in our model, entry by entry.

Parameters are loaded, new or skipped. Weights are found by name, AdamW's moments by number: the
order of upstream's parameters, which is that of its state dict without other entries.

Source: joel99/ndt3 at 472466a; names by `model.upstream`.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch

from ndt3_dist.errors import CheckpointCorrupt, Unsupported
from ndt3_dist.model.losses import poisson_targets
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.upstream.lightning import LightningFile, View
from ndt3_dist.upstream.names import to_upstream
from ndt3_dist.upstream.pickles import brief

CONTEXT_PARTS = {"constraint_in", "return_in.weight", "reward_in.weight"}
"""Parameters that only constraint and return tokens use."""

EXTRA, POISSON = "_extra_state", "task_pipelines.spike_infill.loss.poisson_map"
"""Upstream's entries that are no parameters: a dict of counters and a constant table."""

SEED = 0
"""Seed of parameters that the checkpoint does not have."""


@dataclass
class Plan:
    """What becomes of each entry.

    Attributes:
        loaded: View of each of our parameters that the checkpoint has.
        rows: One per parameter or entry: parameter, upstream, shape, outcome.
        problems: Reasons to refuse the import, unless it may be partial.
    """

    loaded: dict[str, View]
    rows: list[dict]
    problems: list[str]

    @property
    def new(self) -> list[str]:
        return [row["parameter"] for row in self.rows if row["outcome"].startswith("new")]


def state_dict(file: LightningFile) -> tuple[dict[str, View], dict[str, str]]:
    """Tensors and other entries of the state dict.

    Returns:
        Views by upstream's names without torch.compile's `_orig_mod.`, in the file's order; and
        what every entry that is no tensor is.
    """
    found = file.content.get("state_dict")
    if type(found) is not dict:
        raise CheckpointCorrupt(
            f"{file.path}: no state_dict in it; expected a Lightning checkpoint"
        )
    views, others = {}, {}
    for key, value in found.items():
        if type(key) is not str or not re.fullmatch(r"[\w.]{1,200}", key):
            raise CheckpointCorrupt(f"{file.path}: {brief(key)} is no parameter's name")
        clean = key.replace("_orig_mod.", "")
        if clean in views or clean in others:
            raise CheckpointCorrupt(f"{file.path}: {clean} is in the state dict twice")
        if isinstance(value, View):
            views[clean] = value
        else:
            others[clean] = brief(value)
    return views, others


def make_plan(file: LightningFile, config: ModelConfig) -> Plan:
    """Compare a checkpoint's entries with the parameters of our model."""
    views, others = state_dict(file)
    with torch.device("meta"):
        expected = {n: tuple(p.shape) for n, p in NDT3(config).named_parameters()}
    plan = Plan({}, [], [])

    def row(parameter: str, key: str, shape, outcome: str, problem: str = "") -> None:
        plan.rows.append(
            {"parameter": parameter, "upstream": key, "shape": str(shape), "outcome": outcome}
        )
        if problem:
            plan.problems.append(f"{key} {problem}")

    for name, shape in expected.items():
        key = to_upstream(name)
        view = views.pop(key, None)
        if view is None:
            known = name in CONTEXT_PARTS and not config.context_tokens
            row(name, key, shape, f"new, seed {SEED}", "" if known else "is missing")
        elif view.shape != shape or not view.storage.dtype.is_floating_point:
            found = f"has shape {view.shape} of {view.storage.dtype}, expected {shape} of floats"
            row(name, key, shape, f"new, seed {SEED}: file {found}", found)
        else:
            plan.loaded[name] = view
            row(name, key, shape, "loaded")
    for key, view in views.items():
        if key == POISSON:
            ours = poisson_targets(config.count_classes)
            same = view.shape == ours.shape and torch.allclose(
                file.tensor(view).float(), ours.to(view.storage.dtype).float(), atol=1e-5
            )
            row("-", key, view.shape, "skipped, a constant", "" if same else "has other targets")
        else:
            row("-", key, view.shape, "skipped, unexpected", "is no parameter of ours")
    for key, what in others.items():
        known = key == EXTRA
        row("-", key, what, "skipped, no tensor", "" if known else f"is {what}, not a tensor")
    return plan


def read_weights(file: LightningFile, config: ModelConfig, plan: Plan) -> dict[str, torch.Tensor]:
    """All parameters, float32, in our order.

    Raises:
        CheckpointCorrupt: The file has less than half of the model, whatever else may be partial;
            or as `LightningFile.tensors`.
    """
    fresh = {}
    if plan.new:
        with torch.device("meta"):
            total = sum(p.numel() for p in NDT3(config).parameters())
        loaded = sum(math.prod(view.shape) for view in plan.loaded.values())
        if 2 * loaded < total:
            raise CheckpointCorrupt(
                f"{file.path}: {loaded:,} of the {total:,} parameters that its hyper_parameters "
                "describe are in it; expected at least half; import another checkpoint"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            fresh = {n: p.detach() for n, p in NDT3(config).named_parameters()}
    loaded = file.tensors({to_upstream(name): view for name, view in plan.loaded.items()})
    return {
        name: loaded[to_upstream(name)] if name in plan.loaded else fresh[name]
        for name in (row["parameter"] for row in plan.rows)
        if name != "-"
    }


def read_optimizer(file: LightningFile, plan: Plan, weights: dict) -> tuple[dict, dict]:
    """AdamW's state, whose entries are numbered in the order of upstream's parameters.

    Returns:
        `exp_avg.NAME` and `exp_avg_sq.NAME` by our names, float32, zero for new parameters; and
        step and settings for config.json.
    Raises:
        CheckpointCorrupt: Moments are missing or do not fit their parameters.
        Unsupported: Another optimiser, or parameters in several groups.
    """
    order = [view for key, view in state_dict(file)[0].items() if key != POISSON]
    match file.content.get("optimizer_states"):
        case [{"state": dict() as state, "param_groups": [{"params": list() as params} as group]}]:
            pass
        case _:
            raise Unsupported(
                f"{file.path}: no state of one AdamW with one group of parameters; "
                "import it without --with-optimizer"
            )
    if params != list(range(len(order))) or group.get("amsgrad"):
        raise Unsupported(
            f"{file.path}: the optimiser has {len(params)} parameters, the state dict "
            f"{len(order)}, or it is AMSGrad; import it without --with-optimizer"
        )
    numbers = {id(view): i for i, view in enumerate(order)}
    moments: dict[str, View] = {}
    steps = set()
    for name in weights:
        view = plan.loaded.get(name)
        entry = state.get(numbers[id(view)]) if view else None
        for kind in ("exp_avg", "exp_avg_sq"):
            found = entry.get(kind) if type(entry) is dict else None
            if view and (not isinstance(found, View) or found.shape != view.shape):
                raise CheckpointCorrupt(
                    f"{file.path}: the optimiser has no {kind} of shape {view.shape} for "
                    f"{to_upstream(name)}; import it without --with-optimizer"
                )
            if isinstance(found, View):
                moments[f"{kind}.{name}"] = found
        if type(entry) is dict:
            steps.add(plain_number(file, entry.get("step")))
    if len(steps) != 1:
        raise Unsupported(
            f"{file.path}: parameters have taken different numbers of steps; "
            "import it without --with-optimizer"
        )
    read = file.tensors(moments)
    tensors = {
        key: read[key] if key in read else torch.zeros_like(weight)
        for name, weight in weights.items()
        for key in (f"exp_avg.{name}", f"exp_avg_sq.{name}")
    }
    settings: dict[str, Any] = {"step": int(steps.pop())}
    for key in ("lr", "eps", "weight_decay"):
        settings[key] = plain_number(file, group.get(key))
    betas = group.get("betas")
    settings["betas"] = [plain_number(file, b) for b in betas] if type(betas) is tuple else []
    return tensors, settings


def plain_number(file: LightningFile, value: Any) -> float:
    """A number of the optimiser's, also where it is a tensor.

    The tensor must be alone in its storage: a larger one would be read once for every parameter.
    """
    if isinstance(value, View) and value.shape == () and value.storage.elements == 1:
        value = file.tensor(value).item()
    if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise CheckpointCorrupt(
            f"{file.path}: the optimiser has {brief(value)} in place of a number; "
            "import it without --with-optimizer"
        )
    return value
