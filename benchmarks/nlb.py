"""Co-smoothing on simulated spikes with known rates: baselines, NDT1, ensembles of NDT1.

Trials have the shape of mc_maze_small at 20 ms (35 bins, 10 behind). Settings of NDT1 are drawn at
random, and trained in turn; snapshots are ranked and ensembles chosen by val trials, and
everything is scored on test trials that nothing has seen. The rates that the spikes were drawn from
are the best that there is.

Example:
    python benchmarks/nlb.py --seeds 3 --trials 6 --epochs 100
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from ndt3_dist import log
from ndt3_dist.config import check
from ndt3_dist.shards.manifest import read_manifest
from ndt3_dist.shards.summary import text_table
from ndt3_dist.simulate.lorenz import LorenzTrials, lorenz_trials
from ndt3_dist.tasks.nlb.nlb_data import make_data
from ndt3_dist.tasks.nlb.nlb_datasets import dataset_of
from ndt3_dist.tasks.nlb.nlb_ensemble import choose
from ndt3_dist.tasks.nlb.nlb_h5 import write_h5
from ndt3_dist.tasks.nlb.nlb_metrics import bits_per_spike
from ndt3_dist.tasks.nlb.nlb_search import ask, base_of
from ndt3_dist.tasks.nlb.nlb_settings import config_of
from ndt3_dist.tasks.nlb.nlb_snapshots import candidates, rates_of
from ndt3_dist.tasks.nlb.nlb_training import train
from ndt3_dist.train.pretrain_config import PretrainConfig

DATASET, BIN_MS, BINS, FORWARD = "mc_maze_small", 20, 35, 10
HELDIN, HELDOUT = 30, 10
SPLITS = {"train": 300, "val": 80, "test": 160}
SPIKES = {"mean_count": 0.25, "gain": 0.8, "speed": 0.1}
"""Of `simulate.lorenz`: a turn about a wing of the attractor takes some eight bins."""
SPACE = {
    "model.dropout": {"uniform": [0.05, 0.3]},
    "model.dropout_rates": {"uniform": [0.05, 0.3]},
    "model.dropout_embedding": {"uniform": [0.05, 0.3]},
    "model.context_forward": {"int": [10, 45]},
    "model.context_backward": {"int": [10, 45]},
    "model.mask_random_ratio": {"uniform": [0.8, 1.0]},
    "model.mask_token_ratio": {"loguniform": [0.5, 1.0]},
    "model.mask_max_span": {"int": [1, 7]},
    "model.mask_ratio": {"uniform": [0.1, 0.4]},
    "optim.lr": {"loguniform": [1e-3, 5e-3]},
    "optim.weight_decay": {"loguniform": [1e-8, 1e-3]},
}
"""The dataset's own, but for higher rates of learning and less dropout: passes are few."""
WIDTHS = (1.5, 2.5, 4.0)
"""Bins of the Gaussian that baselines smooth by; the best on val trials is taken."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=6, help="settings of NDT1 a seed")
    parser.add_argument("--epochs", type=int, default=100, help="passes over the train trials")
    parser.add_argument("--out", help="folder to work in (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            one_seed(Path(args.out or folder) / f"seed{seed}", seed, args.trials, args.epochs)
            for seed in range(args.seeds)
        ]
    for row in rows:
        log.say(str(row))
    log.say(text_table([{k: f"{v:.4f}" if k != "seed" else v for k, v in r.items()} for r in rows]))


def parts_of(made: LorenzTrials) -> dict[str, slice]:
    ends = np.cumsum([0, *SPLITS.values()])
    return {s: slice(int(a), int(b)) for s, a, b in zip(SPLITS, ends[:-1], ends[1:], strict=True)}


def one_seed(folder: Path, seed: int, trials: int, epochs: int) -> dict[str, float]:
    """Scores of test trials by what gave them."""
    made = lorenz_trials(sum(SPLITS.values()), BINS + FORWARD, HELDIN + HELDOUT, seed, **SPIKES)
    parts = parts_of(made)
    heldout = made.spikes[parts["test"], :BINS, HELDIN:].astype(float)
    best = bits_per_spike(made.rates[parts["test"], :BINS, HELDIN:], heldout)
    row: dict[str, float] = {"seed": seed, "best possible": best}
    row |= baselines(made, parts, heldout)
    folder.mkdir(parents=True, exist_ok=True)
    values = {}
    for name, split in (("train", "train"), ("eval", "val")):
        spikes = made.spikes[parts[split]].astype(np.float32)
        for kind, units in (("heldin", slice(0, HELDIN)), ("heldout", slice(HELDIN, None))):
            values[f"{name}_spikes_{kind}"] = spikes[:, :BINS, units]
            values[f"{name}_spikes_{kind}_forward"] = spikes[:, BINS:, units]
    source = folder / "tensors.h5"
    if not source.exists():
        write_h5(source, values)
        make_data(dataset_of(DATASET), str(source), folder / "data", BIN_MS, ["num_workers=0"])
    corpus = str(folder / "data/corpus")
    space = ask(DATASET, trials, seed, "random", (0, 3), SPACE)
    shorter = [f"optim.decay_epochs={epochs}", f"train.epochs={epochs}", "model.layers=2"]
    shorter += [f"optim.warmup_epochs={epochs // 10}", "validation.patience=0"]
    shorter += ["validation.every_steps=20", "log.every_steps=1000"]
    for number in range(trials):
        place = f"{number:04d}", str(folder / "runs")
        base = base_of(config_of(DATASET, corpus, read_manifest(corpus), *place), shorter)
        config = base.config(space.setting(number), "a setting")
        if not (folder / "runs" / f"{number:04d}" / "export").exists():
            train(check(PretrainConfig, config.model_dump(mode="json"), "a setting"))
    return row | ensembles(folder / "runs", made, parts, heldout)


def ensembles(
    runs: Path, made: LorenzTrials, parts: dict[str, slice], heldout: np.ndarray
) -> dict[str, float]:
    """Of the best snapshot by val trials, and of the mean of the best ones."""
    found = candidates(runs)
    rates = {
        split: [
            rates_of(s.load(), made.spikes[parts[split], :BINS, :HELDIN].astype(float))
            for s in found
        ]
        for split in ("val", "test")
    }
    on_val = [r[:, :BINS, HELDIN:] for r in rates["val"]]
    spikes = made.spikes[parts["val"], :BINS, HELDIN:].astype(float)
    choice, order = choose([s.name for s in found], on_val, spikes)
    on_test = [rates["test"][i][:, :BINS, HELDIN:] for i in order]
    mean = np.mean(on_test[: choice.number], axis=0)
    single = [bits_per_spike(r, heldout) for r in on_test]
    return {
        "NDT1, best by val": single[0],
        "NDT1, best by test": max(single),
        "ensemble": bits_per_spike(mean, heldout),
        "members": float(choice.number),
        "of": float(len(found)),
        "val, own": choice.curve[choice.number - 1],
        "val, nested": choice.nested,
    }


def baselines(made: LorenzTrials, parts: dict[str, slice], heldout: np.ndarray) -> dict[str, float]:
    """Smoothed spikes, and factors of them, each with a Poisson regression to held-out units."""
    from scipy.ndimage import gaussian_filter1d
    from sklearn.decomposition import FactorAnalysis

    spikes = made.spikes[:, :BINS].astype(float)
    found: dict[str, tuple[float, float]] = {}
    for width in WIDTHS:
        smooth = gaussian_filter1d(spikes[:, :, :HELDIN], width, axis=1)
        roots = np.sqrt(smooth).reshape(-1, HELDIN)
        factors = FactorAnalysis(3, random_state=0).fit(roots[: SPLITS["train"] * BINS])
        kinds = {"smoothing": np.log(smooth + 0.02).reshape(-1, HELDIN)}
        kinds["factor analysis"] = factors.transform(roots)
        for name, features in kinds.items():
            rates = regressed(features.reshape(len(spikes), BINS, -1), spikes, parts)
            val, test = (
                bits_per_spike(rates[parts[s]], spikes[parts[s], :, HELDIN:])
                for s in ("val", "test")
            )
            found[name] = max(found.get(name, (-np.inf, 0.0)), (val, test))
    return {name: test for name, (_, test) in found.items()}


def regressed(features: np.ndarray, spikes: np.ndarray, parts: dict[str, slice]) -> np.ndarray:
    """Rates of held-out units of all trials by a regression on train trials."""
    from sklearn.linear_model import PoissonRegressor

    fit = features[parts["train"]].reshape(-1, features.shape[2])
    rates = np.empty((*features.shape[:2], HELDOUT))
    for unit in range(HELDOUT):
        told = spikes[parts["train"], :, HELDIN + unit].ravel()
        model = PoissonRegressor(alpha=1e-2, max_iter=500).fit(fit, told)
        flat = model.predict(features.reshape(-1, features.shape[2]))
        rates[:, :, unit] = flat.reshape(features.shape[:2])
    return rates


if __name__ == "__main__":
    log.run_program(main)
