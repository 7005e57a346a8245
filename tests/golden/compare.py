"""Compare our model with a recorded run of NDT3's original code, and say how far apart they are.

Runs the forward pass (covariates blanked, and shown), losses, gradients, three AdamW steps,
predictions, the fine-tuned layout and bin-by-bin decoding, as far as the folder holds them. Exits
with 1 where a deviation is above its tolerance. Reference: a folder laid out as `original.py` says.

Example:
    python tests/golden/compare.py ../shared/golden/micro
"""

import argparse
import math
from typing import NamedTuple

import numpy as np
import torch
from original import ALL_BINS, Named, Original, pack, targets_of, unpad

from ndt3_dist import log
from ndt3_dist.engines.engine_config import OptimConfig
from ndt3_dist.engines.plain import PlainOptimizer
from ndt3_dist.errors import BadInput
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.streaming import StreamingDecoder
from ndt3_dist.model.tokenise import Layout, tokenise
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.summary import text_table
from ndt3_dist.upstream.names import to_upstream

FEATURES = 2e-6
LOSSES = 1e-6
GRADIENTS = 1e-5
STEPS = 1e-6


class Row(NamedTuple):
    """One line of the table: the largest deviation of one thing, absolute or relative."""

    what: str
    deviation: float
    tolerance: float

    @property
    def passes(self) -> bool:
        return self.deviation <= self.tolerance  # False for NaN too


def deviation(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest absolute difference; BadInput where the shapes are not the same."""
    if ours.shape != theirs.shape:
        raise BadInput(f"{name} is {tuple(theirs.shape)}, our model gives {tuple(ours.shape)}")
    return float((ours.double() - theirs.double()).abs().max())


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Norm of the difference over the norm; where that is zero, of the difference alone."""
    norm = theirs.norm()
    return float((ours - theirs).norm() / (norm if norm > 0 else 1))


@torch.no_grad()
def covariates_of(model: NDT3, tokens: PackedTokens) -> torch.Tensor:
    """Predictions in slot order, (covariate_tokens,)."""
    return model.covariate_out(model.features(tokens)[tokens.covariate_slot])[:, 0]


@torch.no_grad()
def compare_pass(
    model: NDT3, batch: Named, theirs: Named, name: str, blank: range = ALL_BINS
) -> list[Row]:
    """Order of tokens, features, covariate predictions and spike logits, as far as recorded."""
    tokens = PackedTokens.from_numpy(pack(batch, model.config, blank))
    features = model.features(tokens)
    slots = torch.tensor(tokens.seqlens)
    gap = deviation(f"{name} features", features, unpad(theirs, "features", slots))
    rows = [Row(f"{name} features", gap, FEATURES)]
    if "space" in theirs:
        same = torch.equal(tokens.space, unpad(theirs, "space", slots))
        same &= torch.equal(tokens.time, unpad(theirs, "times", slots))
        rows.append(Row(f"{name} order of tokens", 0.0 if same else math.inf, 0.0))
    ours = model.covariate_out(features[tokens.covariate_slot])[:, 0]
    recorded = unpad(theirs, "kin_pred", batch["covariate_length"])
    rows.append(Row(f"{name} covariates", deviation(name, ours, recorded), FEATURES))
    if "spike_logits" in theirs:
        recorded = unpad(theirs, "spike_logits", batch["length"]).transpose(1, 2)
        gap = deviation(name, model.spike_logits(features, tokens), recorded)
        rows.append(Row(f"{name} spike logits", gap, FEATURES))
    return rows


def worst(gaps: list[float]) -> float:
    """The largest; infinity where one is NaN, which `max` would pass over."""
    return max(math.inf if math.isnan(gap) else gap for gap in gaps)


def training_step(model: NDT3, original: Original) -> dict[str, float]:
    """Mean losses by upstream's names; leaves gradients."""
    arrays = pack(original.batch, model.config)
    arrays["covariates"], arrays["covariate_valid"] = targets_of(original.batch)
    num_spikes = int(arrays["spike_channels"].sum())
    num_covariates = int(arrays["covariate_valid"].sum())
    out = model(PackedTokens.from_numpy(arrays), num_spikes, num_covariates)
    out.loss.backward()
    return {
        "loss": float(out.loss.detach()),
        "spike_infill_loss": float(out.sums[0]) / num_spikes,
        "kinematic_linear_loss": float(out.sums[1]) / num_covariates,
    }


def compare_losses(original: Original) -> list[Row]:
    """Losses of the training and of the validation pass, and gradients of every parameter."""
    model = original.model(original.config()).train()
    losses = training_step(model, original)
    rows = []
    for split in ("train", "val"):
        gap = worst([abs(loss - original.expected[split][n]) for n, loss in losses.items()])
        rows.append(Row(f"{split} losses", gap, LOSSES))
    norms, gaps = original.expected["grad_norms"], []
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        gaps.append(relative(parameter.grad, original.outputs["grad." + to_upstream(name)]))
        gaps.append(relative(parameter.grad.norm(), torch.tensor(norms[to_upstream(name)])))
    rows.append(Row("gradients (relative)", worst(gaps), GRADIENTS))
    return rows


def compare_steps(original: Original) -> list[Row]:
    """Losses and gradient norm before each AdamW step, weights after the last."""
    expected = original.expected
    model = original.model(original.config()).train()
    optim = OptimConfig(lr=expected["lr_init"], weight_decay=expected["weight_decay"])
    optimizer = PlainOptimizer(model, optim, "fp32")
    losses, norms = [0.0], [0.0]
    for step in expected["adamw_3steps"]:
        found = training_step(model, original)
        names = {"loss": "loss", "spike": "spike_infill_loss", "kin": "kinematic_linear_loss"}
        losses += [abs(found[ours] - step[theirs]) for theirs, ours in names.items()]
        norm = optimizer.step(expected["lr_init"])
        norms.append(relative(torch.tensor(norm), torch.tensor(step["gnorm"])))
    gaps = [
        deviation(name, master.detach(), original.after[to_upstream(name)])
        for name, master in optimizer.masters.items()
    ]
    return [
        Row("AdamW losses", worst(losses), LOSSES),
        Row("AdamW gradient norms (relative)", worst(norms), GRADIENTS),
        Row("AdamW weights after three steps", worst(gaps), STEPS),
    ]


def compare_predictions(original: Original) -> list[Row]:
    """Upstream's inference path: all covariates blanked, none, or those from bin 10 on.

    Its mask has as many bins as a window, so that a token left at bin 100 is never blanked.
    """
    outputs, rows = original.outputs, []
    model = original.model(original.config()).eval()
    bins = original.expected["dataset"]["max_trial_length"]
    for name, prefix, blank in (
        ("predict_all_masked", "one_batch.", range(bins)),
        ("predict_all_masked_B4", "", range(bins)),
        ("predict_mask_from_10", "one_batch.", range(10, bins)),
        ("predict_no_mask", "one_batch.", range(0)),
    ):
        if outputs.has(name + "."):
            batch = outputs.part(prefix) if prefix else original.batch
            rows.append(compare_predicted(model, batch, outputs, name, blank))
    if outputs.has("predict_simple."):
        theirs = outputs.part("predict_simple.")
        spikes = theirs["arg.spikes"].numpy()
        constraint = theirs["arg.constraint"].expand(len(spikes), -1, -1).numpy()
        layout = layout_of(outputs.part("one_batch."), len(theirs["out"]), model.config)
        tokens = one_window(spikes, layout, model.config, constraint)
        ours = covariates_of(model, tokens)[-layout.dims :]
        gap = deviation("predict_simple.out", ours, theirs["out"])
        rows.append(Row("predict_simple covariates", gap, FEATURES))
    return rows


def compare_predicted(
    model: NDT3, batch: Named, outputs: Named, name: str, blank: range = ALL_BINS
) -> Row:
    tokens = PackedTokens.from_numpy(pack(batch, model.config, blank))
    recorded = unpad(outputs, name + ".behavior_pred", batch["covariate_length"])
    gap = deviation(name, covariates_of(model, tokens), recorded)
    return Row(f"{name} covariates", gap, FEATURES)


def layout_of(batch: Named, dims: int, config: ModelConfig) -> Layout:
    """Patches of the first row, each as an array of its own."""
    patches = int(batch["position"][0].max()) + 1
    channels = batch["channel_counts"][0, :patches].tolist()
    return Layout.from_counts(channels, dims, config, "batch")


def one_window(
    spikes: np.ndarray, layout: Layout, config: ModelConfig, constraint: np.ndarray | None = None
) -> PackedTokens:
    """A window as our own tokeniser makes it, covariates hidden."""
    hidden = np.full((len(spikes), layout.dims), np.nan, np.float32)
    sample = {"spikes": spikes, "covariates": hidden}
    if constraint is not None:
        sample["constraint"] = constraint
    arrays, length = tokenise(sample, layout, config)
    arrays["cu_seqlens"] = np.array([0, length], np.int32)
    return PackedTokens.from_numpy(arrays)


def tuned_model(original: Original) -> NDT3:
    """After upstream's transfer: no context tokens, and space ids of another behavior_dim."""
    trace = original.outputs.part("tune_trace.")
    spikes = trace["space"][trace["modalities"] == 0]
    config = original.config(int(spikes.min()) - 1, context_tokens=False)
    return original.model(config).eval()


def compare_tuned(original: Original) -> list[Row]:
    outputs, model = original.outputs, tuned_model(original)
    batch = outputs.part("tune_batch.")
    rows = compare_pass(model, batch, outputs.part("tune_trace."), "tuned")
    return [*rows, compare_predicted(model, batch, outputs, "tune_predict_all_masked")]


def compare_stream(original: Original) -> list[Row]:
    """Bin by bin over the tuned batch: with kept keys and values, and with each window anew.

    The window is not recorded: it ends at the first bin where upstream's two ways part.
    """
    outputs, model = original.outputs, tuned_model(original)
    kept, anew = outputs["stream.kv_cache"], outputs["stream.recompute"]
    batch = outputs.part("tune_batch.")
    layout = layout_of(batch, kept.shape[1], model.config)
    real = np.arange(model.config.channels_per_token) < layout.real[:, None]
    spikes = batch["spikes"][0].numpy().reshape(-1, real.size)[:, real.ravel()]
    parted = (kept - anew).abs().amax(1) > 1e-5
    context = int(parted.int().argmax()) if parted.any() else len(kept)
    decoder = StreamingDecoder(model, layout, context)
    ours_kept, ours_anew = [], []
    for stop in range(1, len(kept) + 1):
        window = one_window(spikes[max(0, stop - context) : stop], layout, model.config)
        ours_kept.append(decoder.step(spikes[stop - 1 : stop])[0])
        ours_anew.append(covariates_of(model, window)[-layout.dims :])
    rows = []
    for name, ours, theirs in (("kept", ours_kept, kept), ("anew", ours_anew, anew)):
        gap = deviation(f"stream {name}", torch.stack(ours), theirs)
        rows.append(Row(f"stream {name}, window of {context} bins", gap, FEATURES))
    return rows


def compare(original: Original) -> list[Row]:
    """All rows that the folder allows."""
    outputs = original.outputs
    model = original.model(original.config()).eval()
    rows = compare_pass(model, original.batch, outputs.part("all_masked."), "blanked")
    if outputs.has("teacher_forced."):
        shown = outputs.part("teacher_forced.")
        rows += compare_pass(model, original.batch, shown, "teacher-forced", range(0))
    rows += compare_losses(original) + compare_steps(original) + compare_predictions(original)
    if outputs.has("tune_"):
        rows += compare_tuned(original)
    if outputs.has("stream."):
        rows += compare_stream(original)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="recorded run of the original code")
    args = parser.parse_args()
    rows = compare(Original.read(args.folder))
    table = [
        {
            "": row.what,
            "deviation": f"{row.deviation:.1e}",
            "tolerance": f"{row.tolerance:.0e}",
            "verdict": "pass" if row.passes else "FAIL",
        }
        for row in rows
    ]
    log.say(text_table(table))
    failed = [row.what for row in rows if not row.passes]
    log.say(f"{len(failed)} of {len(rows)} above tolerance" if failed else "all within tolerance")
    return 1 if failed else 0


if __name__ == "__main__":
    log.run_program(main)
