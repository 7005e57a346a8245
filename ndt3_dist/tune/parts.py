"""Parts of the model by the names that a config uses: which are frozen, how fast each learns."""

import difflib
from collections.abc import Sequence

from ndt3_dist.errors import BadInput
from ndt3_dist.model.ndt3 import NDT3

PARTS = {
    # Where channels enter: what belongs to one day's units, before what days share.
    "readin": ("blocks.0.attention.qkv.",),
    "backbone": ("blocks.",),
    "embeddings": ("sos", "hidden_in", "space."),
    "spikes": ("spike_in.", "spike_out."),
    "covariates": ("covariate_in.", "covariate_out."),
    "context": ("constraint_in", "return_in.", "reward_in.", "identity_in."),
}
"""Prefixes of the parameters of each part; every parameter belongs to the first that fits."""
HEADS = ("spike_out.", "covariate_out.")


def part_of(name: str) -> str:
    """The part that a parameter belongs to."""
    return next(part for part, prefixes in PARTS.items() if name.startswith(prefixes))


def check_parts(key: str, parts: Sequence[str]) -> None:
    """BadInput for a name that is no part, with the nearest."""
    for part in parts:
        if part not in PARTS:
            near = difflib.get_close_matches(part, PARTS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"expected of {', '.join(PARTS)}"
            raise BadInput(f"{key}: no part {part!r} ({hint})")


def freeze(model: NDT3, parts: Sequence[str]) -> None:
    """Let some parts keep their weights."""
    for name, parameter in model.named_parameters():
        if part_of(name) in parts:
            parameter.requires_grad_(False)


def rate_scales(model: NDT3, decay: float, new: set[str]) -> dict[str, float]:
    """Learning rate of each parameter over the schedule's.

    Args:
        model: With `layers` blocks, counted from 0.
        decay: Block i has decay ** (layers - i), a head 1, all before the blocks
            decay ** (layers + 1).
        new: Parameters that do not come from an export; they have 1. (Low-rank updates are not
            among them: they have the rate of their block.)
    Returns:
        By name of the parameter.
    """
    layers = model.config.layers
    scales = {}
    for name, _ in model.named_parameters():
        below = layers + 1
        if name.startswith("blocks."):
            below = layers - int(name.split(".")[1])
        elif name.startswith(HEADS):
            below = 0
        scales[name] = 1.0 if name in new else decay**below
    return scales


def parts_table(model: NDT3, new: set[str]) -> list[dict]:
    """What becomes of each part: loaded or new, trained or frozen, in tensors and parameters."""
    rows: dict[tuple[str, str, str], list[int]] = {}
    for name, parameter in model.named_parameters():
        origin = "new" if name in new else "loaded"
        state = "trained" if parameter.requires_grad else "frozen"
        rows.setdefault((part_of(name), origin, state), []).append(parameter.numel())
    return [
        {
            "part": part,
            "from": origin,
            "state": state,
            "tensors": len(n),
            "parameters": f"{sum(n):,}",
        }
        for (part, origin, state), n in rows.items()
    ]
