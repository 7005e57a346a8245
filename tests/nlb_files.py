"""NWB files of the benchmark's public structure, of a population with smooth latents."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ndt3_dist.tasks.nlb.nlb_datasets import DATASETS

LASTS_S = {"mc_rtt": 0.6, "dmfc_rsg": 3.6, "area2_bump": 1.8}
"""Of a trial; 1.8 s of the mazes."""


def draw_trials(name: str, number: int, splits: list[str], rng) -> list[dict]:
    """Rows of a table of trials, end to end."""
    rows, lasts = [], LASTS_S.get(name, 1.8)
    for trial in range(number):
        start = round(0.05 + trial * lasts, 3)
        row = {"start_time": start, "stop_time": round(start + lasts, 3), "split": splits[trial]}
        if name == "dmfc_rsg":
            short, tp = trial % 2, round(float(rng.uniform(500, 1100)), 1)
            set_time = round(start + 1.7 + float(rng.uniform(0, 0.1)), 4)
            row |= {"is_eye": bool(trial // 2 % 2), "theta": 0.0, "is_short": bool(short)}
            row |= {"ts": 640.0 if short else 800.0, "tp": tp, "is_outlier": int(trial == 3)}
            row |= {"set_time": set_time, "go_time": round(set_time + tp / 1000, 4)}
        elif name != "mc_rtt":
            row["move_onset_time"] = round(start + 0.75 + float(rng.uniform(0, 0.2)), 4)
            if name == "area2_bump":
                row |= {"cond_dir": float(90 * (trial % 2)), "ctr_hold_bump": int(trial // 2 % 2)}
            else:
                row |= {"trial_type": trial % 2, "trial_version": trial // 2 % 2}
        rows.append(row)
    return rows


def latents(length: int, rng, dims: int = 3) -> np.ndarray:
    """Smooth, (ms, dims)."""
    t = np.arange(length)[:, None] / 1000
    speed, phase = rng.uniform(0.4, 1.5, dims), rng.uniform(0, 6, dims)
    return np.sin(2 * np.pi * speed * t + phase)


def write_nlb(
    folder: Path,
    name: str,
    trials: tuple[int, int, int] = (12, 6, 6),
    units: tuple[int, int] = (8, 4),
    seed: int = 0,
) -> Path:
    """Write the train and the test file of a dataset into a folder, which is returned.

    Args:
        trials: Train, val and test trials, in turn; test trials lie in the test file alone.
        units: Held-in and held-out; the test file has the first alone.
    """
    rng = np.random.default_rng(seed)
    splits = ["train"] * trials[0] + ["val"] * trials[1] + ["test"] * trials[2]
    splits = [splits[i] for i in rng.permutation(len(splits))]
    rows = draw_trials(name, len(splits), splits, rng)
    length = round(rows[-1]["stop_time"] * 1000) + 400
    z = latents(length, rng)
    weights = rng.normal(size=(z.shape[1], sum(units)))
    rates = np.exp(z @ weights * 0.8 + np.log(0.02))
    spikes = [
        (np.repeat(np.arange(length), c) + rng.uniform(0, 0.999, c.sum())) / 1000
        for c in rng.poisson(rates).T
    ]
    heldout = np.zeros(sum(units), bool)
    heldout[rng.choice(sum(units), units[1], replace=False)] = True
    velocity = z[:, :2] @ np.array([[20.0, 3.0], [-5.0, 12.0]])
    for desc in ("train", "test"):
        path = folder / f"sub-X_desc-{desc}.nwb"
        own = [r for r in rows if (r["split"] == "test") == (desc == "test")]
        kept = np.flatnonzero(~heldout) if desc == "test" else np.arange(sum(units))
        spans = np.array([[r["start_time"], r["stop_time"]] for r in own])
        seen = [np.sort(t)[_inside(np.sort(t), spans)] for t in spikes]
        hand = velocity if desc == "train" and DATASETS[name].behavior else None
        if desc == "test":
            own = [{k: v for k, v in r.items() if k not in ("tp", "is_outlier")} for r in own]
        _write(path, name, own, [seen[u] for u in kept], heldout[kept], spans, hand)
    return folder


def _inside(times: np.ndarray, spans: np.ndarray) -> np.ndarray:
    at = spans[:, 0].searchsorted(times, "right") - 1
    return (at >= 0) & (times < spans[np.maximum(at, 0), 1])


def _write(path: Path, name: str, rows, spikes, heldout, spans, velocity) -> None:
    from pynwb import NWBHDF5IO, NWBFile, TimeSeries

    nwb = NWBFile(
        session_description="test",
        identifier=path.stem,
        session_start_time=datetime(2020, 1, 1, tzinfo=UTC),
    )
    for column in rows[0]:
        if column not in ("start_time", "stop_time"):
            nwb.add_trial_column(name=column, description=column)
    for row in rows:
        nwb.add_trial(**row)
    nwb.add_unit_column(name="heldout", description="whether it is held out")
    for times, out in zip(spikes, heldout, strict=True):
        nwb.add_unit(spike_times=times, obs_intervals=spans, heldout=bool(out))
    if velocity is not None:
        ms = np.arange(len(velocity))
        of_trials = _inside(ms / 1000, spans)
        module = nwb.create_processing_module(name="behavior", description="hand")
        module.add(
            TimeSeries(
                name=DATASETS[name].behavior.rsplit("/", 1)[-1],
                data=velocity[of_trials],
                timestamps=ms[of_trials] / 1000,
                unit="mm/s",
                comments="columns=[x,y]",
            )
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with NWBHDF5IO(path=path, mode="w") as io:
        io.write(nwb)
