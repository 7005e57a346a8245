"""On a GPU: outputs, losses and gradients of NDT3's original code, by our model in bf16."""

from pathlib import Path

import pytest
import torch
from golden.original import Original, pack, targets_of, unpad

from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.summary import text_table
from ndt3_dist.upstream.names import to_upstream

FOLDERS = [Path(__file__).resolve().parents[up] / "shared" / "golden" / "micro" for up in (3, 2)]
MICRO = next((folder for folder in FOLDERS if folder.is_dir()), None)
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(not MICRO, reason="golden outputs of the original code are not here"),
]
ROUNDING = 2.0**-8
"""Largest relative error of bf16, which keeps 8 bits."""
TOLERANCES = {"outputs": 4 * ROUNDING, "gradients": 4 * ROUNDING, "losses": ROUNDING / 4}
"""Relative, of norms. Some ten roundings lie on the way through two blocks; they add up as random
ones do: on a CPU to 1.3 to 1.9 of the largest, and in a loss, a mean, to a tenth of it."""


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((ours.detach().cpu().double() - theirs.double()).norm() / theirs.double().norm())


def deviations(original: Original, device: str) -> dict[str, tuple[str, float]]:
    """Kind and deviation of each thing, with weights and activations in bf16."""
    model = original.model(original.config()).to(device, torch.bfloat16)
    arrays, outputs = pack(original.batch, model.config), original.outputs.part("all_masked.")
    tokens = PackedTokens.from_numpy(arrays, device)
    features = model.features(tokens)
    predicted = model.covariate_out(features[tokens.covariate_slot])[:, 0]
    logits = model.spike_logits(features, tokens)
    batch, slots = original.batch, torch.tensor(tokens.seqlens)
    of_spikes = unpad(outputs, "spike_logits", batch["length"]).transpose(1, 2)
    of_covariates = unpad(outputs, "kin_pred", batch["covariate_length"])
    found = {
        "features": ("outputs", relative(features, unpad(outputs, "features", slots))),
        "spike logits": ("outputs", relative(logits, of_spikes)),
        "covariates": ("outputs", relative(predicted, of_covariates)),
    }
    arrays["covariates"], arrays["covariate_valid"] = targets_of(original.batch)
    counts = int(arrays["spike_channels"].sum()), int(arrays["covariate_valid"].sum())
    out = model.train()(PackedTokens.from_numpy(arrays, device), *counts)
    out.loss.backward()
    theirs = original.expected["train"]
    for name, ours in (
        ("loss", out.loss),
        ("spike_infill_loss", out.sums[0] / counts[0]),
        ("kinematic_linear_loss", out.sums[1] / counts[1]),
    ):
        found[name] = ("losses", relative(ours, torch.tensor(theirs[name])))
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    recorded = {name: original.outputs["grad." + to_upstream(name)] for name in grads}
    ours, exact = (
        torch.cat([g.cpu().flatten().double() for g in gs.values()]) for gs in (grads, recorded)
    )
    found["gradients"] = ("gradients", relative(ours, exact))
    return found


def test_the_originals_outputs_losses_and_gradients():
    assert MICRO
    found = deviations(Original.read(MICRO), "cuda")
    rows = [
        {"": what, "deviation": f"{gap:.1e}", "tolerance": f"{TOLERANCES[kind]:.1e}"}
        for what, (kind, gap) in found.items()
    ]
    print(f"\n{text_table(rows)}")
    assert not {what: gap for what, (kind, gap) in found.items() if not gap <= TOLERANCES[kind]}
