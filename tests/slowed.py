"""Ranks of a launched run that are slow, break or stop somewhere, as a file says while they run.

The seam is Python's own: every process started with `slow` in place runs a `sitecustomize` that
wraps the functions where a fault begins. The project's code knows nothing of it.
"""

import os
import re
import socket
import time
from pathlib import Path

import psutil
from launching import log_of, losses

HOST = socket.gethostname()
EVERY = 3
"""Steps of a window."""
WINDOWS = [
    *("train.max_steps=100000", f"log.every_steps={EVERY}", f"checkpoint.every_steps={EVERY}"),
    *("checkpoint.background=false", "checkpoint.keep_last=1", "train.slow_rank_s=3"),
]
SITE = """
import builtins, os, sys, time

RANK, TOLD = os.environ.get("RANK", ""), "@TOLD@"


def fault(where):
    with open(TOLD) as file:
        words = file.read().split()
    for place, ranks, what in zip(words[::3], words[1::3], words[2::3]):
        if place == where and (ranks == "all" or RANK in ranks.split(",")):
            if what == "raise":
                raise RuntimeError("broken on purpose")
            time.sleep(float(what))


def wrapped(call, where):
    def slowed(*args, **kwargs):
        fault(where)
        return call(*args, **kwargs)

    return slowed


PLACES = {
    "data": ("ndt3_dist.data.stream", "Stream", "_fill"),
    "forward": ("ndt3_dist.model.ndt3", "NDT3", "forward"),
    "optimiser": ("ndt3_dist.engines.adamw", "ClippedAdamW", "step"),
    "fetch": ("ndt3_dist.shards.corpus", "Corpus", "fetch"),
    "checkpoint": ("ndt3_dist.storage", None, "write_pieces"),
}
done, true = set(), builtins.__import__


def hook(*args, **kwargs):
    module = true(*args, **kwargs)
    for where, (file, owner, name) in PLACES.items():
        place = sys.modules.get(file)
        if where not in done and place is not None:
            place = getattr(place, owner, None) if owner else place
            if hasattr(place, name):
                done.add(where)
                setattr(place, name, wrapped(getattr(place, name), where))
    return module


if RANK:
    builtins.__import__ = hook
"""


class Slowed:
    """Faults of the ranks of what is launched from here on."""

    def __init__(self, folder: Path, monkeypatch, also: str = ""):
        """
        Args:
            also: Python that every rank runs at its start.
        """
        folder.mkdir(parents=True)
        self.told = folder / "told"
        self.tell()
        (folder / "sitecustomize.py").write_text(SITE.replace("@TOLD@", str(self.told)) + also)
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)

    def tell(self, *faults: str) -> None:
        """From now on these faults and no others.

        Args:
            faults: `PLACE RANKS SECONDS`: seconds more at each call there; `raise` for an error.
        """
        new = self.told.with_suffix(".new")
        new.write_text("\n".join(faults))
        os.replace(new, self.told)


def wait_for(said: str, folder, process, seconds=60.0) -> str:
    """The log, once it says something that matches."""
    deadline = time.monotonic() + seconds
    while not re.search(said, log := log_of(folder)):
        assert process.poll() is None, log
        assert time.monotonic() < deadline, log
        time.sleep(0.05)
    return log


def named_within_two_windows(slowed: Slowed, folder, process, fault: str, said: str) -> None:
    """Begin a fault; the line that names it comes after two windows that are wholly of it."""
    slowed.tell(fault)
    began = max(losses(folder))
    log = wait_for(said, folder, process)
    before = log[: re.search(said, log).start()]
    last = int(re.findall(r"^step (\d+)/", before, re.M)[-1])
    assert last - began <= 3 * EVERY + 1, log  # it begins within a window, which need not count


def end_of_hang(process, folder, stopped=(), ends_within_s=60) -> str:
    """What a job says last that hangs, once all have ended; those that stand still are killed."""
    log = wait_for(r"\nerror: .*\n", folder, process)
    family = psutil.Process(process.pid).children(recursive=True)
    for rank in stopped:
        rank.kill()
    assert process.wait(timeout=ends_within_s) != 0
    assert not psutil.wait_procs(family, timeout=ends_within_s)[1]
    log = log_of(folder)
    return [line for line in log.splitlines() if line and not line.startswith("[")][-1]
