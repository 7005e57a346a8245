"""Bring a setting to a step: each of its seeds in turn, by a process that forks runs (`fork`)."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ndt3_dist import storage

FORKERS: dict[tuple, subprocess.Popen] = {}
"""Of this process, by program and threads: a worker has one setting after the other."""


class SettingFailed(Exception):
    """A run of a setting ended by itself; says which, and why, in a line."""


def advance(job: dict[str, Any], until: int) -> dict[str, Any]:
    """Bring all seeds to a step; those that are there already are not run again.

    Args:
        job: kind, folder (of the trial), seeds, init, scratch, metric, threads.
        until: The step; 0 = the end.
    Returns:
        scores, of each seed; steps, the last that one has made; over: whether all have ended.
    Raises:
        SettingFailed: One of them failed.
    """
    folder, scores, steps, over = Path(job["folder"]), [], 0, True
    for seed in range(job["seeds"]):
        result = folder / f"seed{seed}.json"
        found = storage.read_json(result) if result.exists() else {}
        if not found.get("over") and (not found or found["until"] != until):
            run(job, seed, until)
            found = storage.read_json(result)
        if not math.isfinite(found["score"]):
            raise SettingFailed(f"seed {seed}: {job['metric']} is {found['score']}")
        scores.append(found["score"])
        steps, over = max(steps, found["steps"]), over and found["over"]
    return {"scores": scores, "steps": steps, "over": over}


def run(job: dict[str, Any], seed: int, until: int) -> None:
    """One seed. Raises SettingFailed."""
    folder = Path(job["folder"])
    log = folder / f"seed{seed}.log"
    what = {k: job[k] for k in ("kind", "init", "scratch", "metric")}
    what |= {"config": str(folder / f"seed{seed}.yaml"), "log": str(log), "until": until}
    what["result"] = str(folder / f"seed{seed}.json")
    process = forker(job["kind"], job["threads"], log)
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(json.dumps(what) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except OSError:
        answer = ""
    if not answer:
        FORKERS.clear()
        raise SettingFailed(f"seed {seed}: the process that starts runs was killed")
    if code := int(answer):
        raise SettingFailed(f"seed {seed}: {last_words(log, code)}")


def forker(kind: str, threads: int, log: Path) -> subprocess.Popen:
    """The process that forks runs of a program; started where there is none, with this log."""
    process = FORKERS.get((kind, threads))
    if process and process.poll() is None:
        return process
    told = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "ndt3_dist.cluster.search.fork", kind],
            env={**os.environ, **told},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C is for the search, which ends this one's input
        )
    assert process.stdout
    if process.stdout.readline() != "ready\n":
        raise SettingFailed(f"no run can be started: {last_words(log, process.wait())}")
    FORKERS[kind, threads] = process
    return process


def last_words(log: Path, code: int) -> str:
    """Why a run ended, in a line, from its log and its exit code."""
    if code < 0:
        memory = "; out of memory?" if -code == signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{memory}"
    lines = storage.read_text(log).splitlines() if log.exists() else []
    said = [line for line in lines if line.strip()] or [f"exit code {code}"]
    errors = [line for line in said if line.startswith("error: ")]
    return (errors or said)[-1].strip().removeprefix("error: ")
