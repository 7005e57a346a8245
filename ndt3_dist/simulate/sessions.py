"""Simulated motor-cortex recordings, written as NWB files the way a lab would write them.

The model is in `motor_model.py`, the file format in `write_nwb.py`. Sessions are also
decoded by the optimal filter (`oracle.py`), which knows the truth, so that the best possible R2 is
known: of every file, or, since that takes two thirds of the time, of each subject's last.

Output: OUT/sub-A/sub-A_ses-01.nwb and so on, and OUT/simulation.json, written last: its presence
means that the folder is complete. Invariants: all arrays, identifiers and dates follow from the
arguments alone; nothing is drawn from the clock.
"""

import hashlib
import json
import math
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from ndt3_dist import log
from ndt3_dist.simulate.motor_model import (
    ARRAYS,
    DATE,
    PARAMETERS,
    SPIKES,
    STATES,
    TRIALS,
    Population,
    draw_spikes,
    draw_states,
    make_dynamics,
    make_readout,
    subject_populations,
)
from ndt3_dist.simulate.oracle import StateSpace, decode_velocity, decoding_r2, firing_rates
from ndt3_dist.simulate.write_nwb import draw_trials, write_nwb

MAX_SUBJECTS = 26  # they are named by a letter
MIN_SECONDS = 2.0
ORACLE = ("all", "last")
WORTH_PROCESSES_MINUTES = 8
FIRST_DAY = datetime(2020, 1, 6, 9, tzinfo=UTC)


def simulate(
    out: str | Path,
    sessions: int,
    minutes: float,
    seed: int,
    subjects: int = 3,
    oracle: str = "all",
) -> dict:
    """Write a simulated dataset and its simulation.json.

    Args:
        out: Folder that does not exist, is empty, or already holds this very simulation.
        sessions: Number of sessions, dealt round-robin to the subjects, one a day each.
        minutes: Length of a session.
        seed: Everything random follows from it.
        subjects: Number of subjects, 1 to 26.
        oracle: Sessions whose best possible R2 is computed: all, or each subject's last.
    Returns:
        What simulation.json holds.
    Raises:
        ValueError: An argument is out of range.
        FileExistsError: The folder holds something else.
    """
    arguments = check_arguments(sessions, minutes, seed, subjects, oracle)
    out = Path(out)
    found = find_simulation(out, arguments)
    if found is not None:
        return found
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not empty and holds another or an unfinished simulation")
    space = make_dynamics(seed)
    days = [len(range(s, sessions, subjects)) for s in range(subjects)]
    populations = [subject_populations(seed, s, d) if d else [] for s, d in enumerate(days)]
    jobs = [
        (out, arguments, i % subjects, i // subjects, space, populations[i % subjects])
        for i in range(sessions)
    ]
    entries = list(log.progress(_run(jobs), "simulating, sessions", sessions))
    result = {"arguments": arguments, "parameters": _plain(asdict(PARAMETERS)), "sessions": entries}
    partial = out / "simulation.json.partial"
    partial.write_text(json.dumps(result, indent=2) + "\n", encoding="ascii")
    os.replace(partial, out / "simulation.json")
    return result


def _run(jobs: list[tuple]) -> Iterator[dict]:
    """Entries of all sessions in order; short jobs here, others shared by processes.

    Every draw is keyed by (seed, subject, day), so that it does not matter who makes it. Processes
    are spawned, not forked: forking one that has threads (numpy's, a caller's) can hang.
    """
    workers = min(len(jobs), len(os.sched_getaffinity(0)))
    if workers == 1 or len(jobs) * jobs[0][1]["minutes"] < WORTH_PROCESSES_MINUTES:
        yield from (_simulate_session(*job) for job in jobs)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_simulate_session, *zip(*jobs, strict=True))


def find_simulation(out: str | Path, arguments: dict) -> dict | None:
    """What simulation.json holds, if it is complete and comes from the same arguments and model."""
    path = Path(out) / "simulation.json"
    try:
        found = json.loads(path.read_text(encoding="ascii"))
        same = found["arguments"] == arguments
        same = same and found["parameters"] == _plain(asdict(PARAMETERS))
        same = same and all((Path(out) / entry["file"]).is_file() for entry in found["sessions"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if same else None


def format_table(result: dict) -> str:
    """Plain-text table of a simulation, one line a session."""
    lines = ["session           subject  channels  units  minutes  mean rate Hz  best possible R2"]
    minutes = result["arguments"]["minutes"]
    for entry in result["sessions"]:
        lines.append(
            f"{entry['session']:<16}  {entry['subject']:<7}  {entry['channels']:>8}  "
            f"{entry['units']:>5}  {minutes:>7g}  {entry['mean_rate_hz']:>12.1f}  "
            f"{'-' if entry['oracle_r2'] is None else format(entry['oracle_r2'], '.3f'):>16}"
        )
    return "\n".join(lines)


def check_arguments(
    sessions: int, minutes: float, seed: int, subjects: int, oracle: str = "all"
) -> dict:
    """The arguments as simulation.json keeps them; ValueError names one that is out of range."""
    if sessions < 1:
        raise ValueError(f"sessions must be at least 1, got {sessions}")
    if not math.isfinite(minutes) or minutes * 60 < MIN_SECONDS:
        raise ValueError(f"minutes must be at least {MIN_SECONDS / 60:.3f} (2 s), got {minutes:g}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if not 1 <= subjects <= MAX_SUBJECTS:
        raise ValueError(f"subjects must be 1 to {MAX_SUBJECTS}, got {subjects}")
    if oracle not in ORACLE:
        raise ValueError(f"oracle must be one of {', '.join(ORACLE)}, got {oracle}")
    return {
        "sessions": sessions,
        "minutes": float(minutes),
        "seed": seed,
        "subjects": subjects,
        "oracle": oracle,
    }


def _plain(values: dict) -> dict:
    """As JSON reads it back, so that it can be compared with a file."""
    return json.loads(json.dumps(values))


def _simulate_session(
    out: Path,
    arguments: dict,
    subject: int,
    day: int,
    space: StateSpace,
    populations: list[Population],
) -> dict:
    """Simulate, decode and write one session; returns its entry of simulation.json."""
    seed, lead = arguments["seed"], space.lead_bins
    num_bins = round(arguments["minutes"] * 60 / space.bin_size_s)
    letter = chr(ord("A") + subject)
    name = f"sub-{letter}_ses-{day + 1:02d}"
    population = populations[day]
    readout = make_readout(population)
    states = draw_states(
        space, num_bins + lead, np.random.default_rng([seed, STATES, subject, day])
    )
    # The hand trails the state: state row t + lead is cortex now, row t is the hand now.
    velocity = states[:num_bins, -2:] * space.velocity_scale_cm_s
    position = states[:num_bins, -6:-4] * space.position_scale_cm
    times, ends, counts = draw_spikes(
        firing_rates(states[lead:], readout),
        space.bin_size_s,
        np.random.default_rng([seed, SPIKES, subject, day]),
    )
    r2 = None
    if arguments["oracle"] == "all" or day == len(populations) - 1:
        r2 = decoding_r2(velocity, decode_velocity(counts, space, readout))
    arrays = ARRAYS[subject % len(ARRAYS)]
    source = {k: v for k, v in arguments.items() if k != "oracle"}
    start_hour = np.random.default_rng([seed, DATE, subject]).uniform(0, 6)
    duration_s = num_bins * space.bin_size_s
    path = out / f"sub-{letter}" / f"{name}.nwb"
    write_nwb(
        path,
        identifier=hashlib.sha256(json.dumps([name, source]).encode()).hexdigest()[:32],
        start=FIRST_DAY + timedelta(days=day, minutes=int(start_hour * 60)),
        letter=letter,
        arrays=arrays,
        duration_s=duration_s,
        electrode=population.electrode,
        times=times,
        ends=ends,
        velocity=velocity,
        position=position,
        trials=draw_trials(position, np.random.default_rng([seed, TRIALS, subject, day])),
    )
    return {
        "session": name,
        "file": path.relative_to(out).as_posix(),
        "subject": letter,
        "day": day,
        "channels": sum(n for _, n in arrays),
        "units": len(ends),
        "mean_rate_hz": len(times) / len(ends) / duration_s,
        "oracle_r2": r2,
    }
