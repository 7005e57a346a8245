"""Co-smoothing: counts of held-out channels from all others, by a masked model and by smoothing.

An hour of simulated motor cortex whose true rates are known, in bins of 50 ms: 64 channels are
seen, 32 are hidden in every test bin, the last 15 % of the session. A masked model is fitted to the
first 85 %, without labels. Smoothing takes Gaussian kernels of the seen channels and a ridge or
Poisson regression to each hidden one; kernel and penalty are those that do best on the last fifth
of the same bins, then all are fitted. Bits per spike over each channel's mean rate, as the Neural
Latents Benchmark has them; true rates are the most that anybody can reach.

Example:
    python benchmarks/masked.py --minutes 60 --steps 2500
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

import ndt3_dist
from ndt3_dist import log
from ndt3_dist.data.continuous import read_pieces
from ndt3_dist.evaluate.cosmooth import channels_of, cosmooth
from ndt3_dist.evaluate.metrics import bits_per_spike
from ndt3_dist.model.load import load_model
from ndt3_dist.model.tokenise import Layout
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.summary import text_table
from ndt3_dist.simulate.motor_model import (
    SPIKES,
    STATES,
    draw_spikes,
    draw_states,
    make_dynamics,
    make_readout,
    subject_populations,
)
from ndt3_dist.simulate.oracle import firing_rates

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, save

CHANNELS, SEEN, PER_BIN, WINDOW_MS = 96, 64, 5, 2000
WIDTHS, PENALTIES = (1.0, 1.5, 2.0, 2.5, 3.0), (3e2, 3e3, 3e4, 3e5)
"""Of kernels, standard deviations in bins; of squared weights of inputs with unit variance."""
MODEL = {"layers": 2, "dim": 96, "heads": 4, "feedforward": 192, "attention_dropout": 0.0}
MODEL |= {"channels_per_token": 32, "max_channels": 96, "count_classes": 10}
MODEL |= {"context_tokens": False, "objective": "masked", "mask_ratio": 0.3, "mask_span": 40}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60, help="of recording (default: 60)")
    parser.add_argument("--steps", type=int, default=2500, help="of 32 windows (default: 2500)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows, size = [], {"seed": args.seed, "steps": args.steps}
    counts, rates = simulated(args.minutes, args.seed)
    with tempfile.TemporaryDirectory() as folder:
        split = {"calibration": (0, 0.85), "test": (0.85, 1)}
        made = ndt3_dist.recording(
            "A",
            "1",
            spike_counts=counts,
            count_bin_ms=50,
            arrays={"seen": SEEN, "hidden": CHANNELS - SEEN},
        )
        corpus = ndt3_dist.prepare(
            [made],
            f"{folder}/corpus",
            dataset="simulated",
            bin_size_ms=50,
            window_ms=WINDOW_MS,
            splits=[{"intervals": split}],
        )
        began = time.perf_counter()
        export = fit(corpus, folder, args.steps, args.seed)
        seconds = time.perf_counter() - began
        entry, test = read_pieces(Corpus(corpus, ("test",)), "simulated-A-1")
        _, known = read_pieces(Corpus(corpus, ("calibration",)), "simulated-A-1")
        hidden, model = channels_of(entry, ["hidden"]), load_model(export)
        layout, window = Layout.of(entry, model.config), WINDOW_MS // 50
        ours = np.concatenate([cosmooth(model, p, layout, hidden, window) for p in test])
    truth = np.concatenate([p.spikes[:, hidden] for p in test])
    scored = np.concatenate([np.arange(p.start_bin, p.start_bin + len(p)) for p in test])
    fitted = np.concatenate([np.arange(p.start_bin, p.start_bin + len(p)) for p in known])
    rows.append(("true rates", bits_per_spike(truth, rates[scored][:, hidden]), ""))
    how = f"{args.steps} steps, {seconds:.0f} s"
    rows.append(("masked model", bits_per_spike(truth, ours), how))
    for name, regress in (("Poisson regression", poisson), ("ridge", ridge)):
        found, how = smoothed(counts, fitted, scored, regress)
        rows.append((f"smoothing and {name}", bits_per_spike(truth, found), how))
    table = [{"decoder": n, "co-bps": f"{bits:.4f}", "how": how} for n, bits, how in rows]
    text = f"{header('masked')}\n{size}, {args.minutes:g} minutes, {len(fitted)} bins to fit, "
    text += f"{len(scored)} to score, {SEEN} channels seen, {CHANNELS - SEEN} hidden\n"
    text += "\n" + text_table(table)
    log.say(f"{text}\n{save('masked', text)}")


def simulated(minutes: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts and true expected counts in bins of 50 ms, (bins, channels) both."""
    space, units = make_dynamics(seed), subject_populations(seed, 0, 1)[0]
    bins = round(minutes * 60 / space.bin_size_s) // PER_BIN * PER_BIN
    states = draw_states(space, bins, np.random.default_rng([seed, STATES, 0, 0]))
    hz = firing_rates(states, make_readout(units))
    draw = np.random.default_rng([seed, SPIKES, 0, 0])
    _, _, spikes = draw_spikes(hz, space.bin_size_s, draw)
    on = np.eye(CHANNELS)[units.electrode]  # (units, channels)
    of_bins = [x.reshape(-1, PER_BIN, x.shape[1]).sum(1) @ on for x in (spikes, hz)]
    return of_bins[0].astype(np.uint8), of_bins[1] * space.bin_size_s


def fit(corpus: str, folder: str, steps: int, seed: int) -> str:
    """A masked model of the session's counts; its export."""
    return ndt3_dist.fit(
        corpus,
        out=f"{folder}/run",
        verbose=True,
        run={"seed": seed},
        model=MODEL,
        data={"val_fraction": 0.01},
        optim={
            "lr": 3e-3,
            "lr_min": 1e-5,
            "warmup_epochs": 50,
            "decay_epochs": steps,
            "betas": [0.9, 0.95],
        },
        train={
            "steps": steps,
            "batch": 32,
            "eval_every": steps,
            "patience": 0,
            "precision": "fp32",
            "dropout": 0.0,
            "objective": "spikes",
        },
        log={"every_steps": 100},
    )


def smoothed(counts, fitted, scored, regress) -> tuple[np.ndarray, str]:
    """Expected counts of hidden channels in the scored bins, and kernel and penalty."""
    part = len(fitted) * 4 // 5
    best = (-np.inf, 0.0, 0.0)
    hidden = counts[:, SEEN:].astype(np.float64)
    for width in WIDTHS:
        x = inputs(counts, width)
        for penalty in PENALTIES:
            found = regress(x[fitted[:part]], hidden[fitted[:part]], penalty)(x[fitted[part:]])
            best = max(best, (bits_per_spike(hidden[fitted[part:]], found), width, penalty))
    _, width, penalty = best
    x = inputs(counts, width)
    found = regress(x[fitted], hidden[fitted], penalty)(x[scored])
    return found, f"kernel of {50 * width:g} ms, penalty {penalty:g}"


def inputs(counts: np.ndarray, width: float) -> np.ndarray:
    """Smoothed counts of seen channels with unit variance, and 1, (bins, seen + 1)."""
    x = gaussian_filter1d(counts[:, :SEEN].astype(np.float64), width, axis=0)
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def ridge(x: np.ndarray, y: np.ndarray, penalty: float):
    """A linear regression of counts, never below a thousandth."""
    gram = x.T @ x + penalty * np.diag([1.0] * (x.shape[1] - 1) + [0.0])
    weights = np.linalg.solve(gram, x.T @ y)
    return lambda new: np.maximum(new @ weights, 1e-3)


def poisson(x: np.ndarray, y: np.ndarray, penalty: float):
    """A Poisson regression of all channels at once by L-BFGS, from their mean rates."""
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    weights = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64)
    weights[-1] = b.mean(0).clamp(min=1e-3).log()
    weights.requires_grad_()
    solver = torch.optim.LBFGS(
        [weights], max_iter=40, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss():
        solver.zero_grad()
        log_rate = a @ weights
        value = (log_rate.exp() - b * log_rate).sum() / len(a)
        value = value + penalty / 2 * weights[:-1].pow(2).sum() / len(a)
        value.backward()
        return value

    solver.step(loss)
    found = weights.detach().numpy()
    return lambda new: np.exp(new @ found)


if __name__ == "__main__":
    log.run_program(main)
