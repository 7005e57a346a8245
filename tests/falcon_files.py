"""Files as FALCON publishes them, small, and fits with random weights that decode them."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from ndt3_dist.checkpoint.export import describe_export, write_export
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.tasks.falcon.fitted import Decodes, Fitted, write_fitted
from ndt3_dist.tasks.falcon.tags import H1_TIMES, TASKS, Task

MODEL = ModelConfig(layers=2, dim=32, heads=2, feedforward=32, context_tokens=False)
TEXTS = ("so~", "hm?>no")


def public_name(task: Task, tag: str, split: str = "minival") -> str:
    """The name that DANDI has for a recording."""
    side = "held-in" if tag in task.held_in else "held-out"
    digits = tag.rpartition("_")[2].replace(".", "")
    day = f"{digits[:4]}-{digits[4:6]}-{digits[6:]}"
    time = {set_: t for t, set_ in H1_TIMES.items()}.get(tag, "")
    return {
        "h1": f"sub-HumanPitt-{side}-{split}_ses-{time}.nwb",
        "h2": f"sub-T5-{side}-{split}_ses-{digits}.nwb",
        "m1": f"sub-MonkeyL-{side}-{split}_ses-{digits}_behavior+ecephys.nwb",
        "m2": f"sub-MonkeyN-{side}-{split}_ses-{day}-{tag[:4]}_behavior+ecephys.nwb",
    }[task.name]


def write_file(path: Path, task: Task, bins: int, seed: int = 0, gap: int = 0) -> Path:
    """One recording; every other unit has spikes on the borders of bins.

    Args:
        gap: Bin before which the clock leaps by a second; of h2 its second trial.
    """
    from pynwb import NWBHDF5IO, NWBFile, TimeSeries
    from pynwb.behavior import BehavioralTimeSeries

    draw = np.random.default_rng(seed)
    nwb = NWBFile(
        session_description="as the set has it",
        identifier=path.stem,
        session_start_time=datetime(2020, 1, 1, tzinfo=UTC),
    )

    def series(name, data, **times):
        return TimeSeries(name=name, data=np.asarray(data), unit="a.u.", **times)

    start = 4.0
    times = start + np.arange(bins) * 0.02 + (np.arange(bins) >= (gap or bins))
    if task.name != "h2":
        stamped = times if task.name == "m2" else times + 0.02
        stops = times + 0.02 if task.name != "h1" else start + 0.02 + np.arange(bins) * 0.02
        for unit in range(task.channels):
            spikes = draw.uniform(start, stops[-1], bins // 8)
            on_borders = stops[[5, -1]] if unit % 2 else []
            nwb.add_unit(spike_times=np.sort(np.r_[spikes, on_borders]))
    mask = draw.random(bins) < 0.8
    moves = np.cumsum(draw.normal(size=(bins, max(task.dims, 1))), axis=0) * 0.1
    if task.name == "h1":
        wrong = {"rate": 0.02, "offset": start + 0.02}
        nwb.add_acquisition(series("OpenLoopKinematics", np.zeros((bins, 7)), **wrong))
        nwb.add_acquisition(series("OpenLoopKinematicsVelocity", moves, rate=0.02))
        nwb.add_acquisition(series("TrialNum", np.arange(bins) // 50, rate=0.02))
        nwb.add_acquisition(series("eval_mask", mask, rate=0.02))
        trials = []
    elif task.name == "h2":
        counts = draw.poisson(1, (bins, task.channels)).astype(np.uint8)
        nwb.add_acquisition(series("binned_spikes", counts, timestamps=times))
        nwb.add_acquisition(series("eval_mask", np.ones(bins, bool), timestamps=times))
        nwb.add_trial_column("cue", "text")
        edges = [0, gap, bins] if gap else [0, bins]
        trials = [
            {"start_time": times[a], "stop_time": times[b - 1], "cue": text}
            for a, b, text in zip(edges, edges[1:], TEXTS, strict=False)
        ]
    else:
        held, names = ("preprocessed_emg", [f"m{i:02d}" for i in range(16)]), ()
        if task.name == "m2":
            held = ("finger_vel", ["index", "mrs"])
        names = [series(n, moves[:, i], timestamps=stamped) for i, n in enumerate(held[1])]
        nwb.add_acquisition(BehavioralTimeSeries(time_series=names, name=held[0]))
        nwb.add_acquisition(series("eval_mask", mask, timestamps=stamped))
        trials = [{"start_time": times[0], "stop_time": times[bins // 2]}]
    for trial in trials:
        nwb.add_trial(**{k: v if k == "cue" else float(v) for k, v in trial.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with NWBHDF5IO(path, "w") as out:
        out.write(nwb)
    return path


def write_minival(data: Path, task: Task) -> None:
    """All held-in recordings, of three lengths, where the evaluator looks for them."""
    made = [
        write_file(data / f"{task.name}{n}.nwb", task, 30 + 10 * n, n, gap=20 if n == 2 else 0)
        for n in range(3)
    ]
    if task.name == "h1":  # its clock cannot leap
        made[2] = write_file(data / "h12.nwb", task, 50, 2)
    folder = data / task.name / "minival"
    folder.mkdir(parents=True)
    for number, tag in enumerate(task.held_in):
        shutil.copy(made[number % 3], folder / public_name(task, tag))


def write_random_export(folder: Path, sessions: dict[str, dict], seed: int = 0) -> Path:
    """An export of untrained weights, large enough to move."""
    torch.manual_seed(seed)
    model = NDT3(MODEL)
    with torch.no_grad():
        model.covariate_out.weight *= 5
    weights = {name: p.detach() for name, p in model.named_parameters()}
    trained = {"run": "t", "step": 1, "corpus": "0" * 64}
    norms = {"bin_size_ms": 20.0, "window_bins": 20, "sessions": sessions}
    write_export(folder, weights, describe_export(MODEL, weights, "fp32", trained), norms)
    return folder


def session_of(task: Task, number: int) -> dict:
    """What a normaliser says of one: other scales for each."""
    named = [
        {"name": f"d{i}", "unit": "a.u.", "scale": 0.1 * (1 + number + i)} for i in range(task.dims)
    ]
    return {"covariates": named, "channels": [task.channels]}


def write_fit(folder: Path, name: str) -> Path:
    """A fit of two exports that decode the recordings of a task by turns, each under its scale."""
    task = TASKS[name]
    turns = [(f"fits/{number % 2}", tag, number) for number, tag in enumerate(task.tags)]
    for export in dict.fromkeys(export for export, *_ in turns):
        mine = {tag: session_of(task, number) for e, tag, number in turns if e == export}
        write_random_export(folder / export, mine, seed=int(export[-1]))
    by = {tag: Decodes(export=export, session=tag) for export, tag, _ in turns}
    write_fitted(folder, Fitted(task=name, mode="few-shot", decoders=by))
    return folder
