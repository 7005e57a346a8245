"""Ranks of a launched run that are slow, break or stop somewhere, as a file says while they run.

The seam is Python's own: every process started with `slow` in place runs a `sitecustomize` that
wraps the functions where a fault begins. The project's code knows nothing of it.
"""

import os
from pathlib import Path

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

    def __init__(self, folder: Path, monkeypatch):
        folder.mkdir(parents=True)
        self.told = folder / "told"
        self.tell()
        (folder / "sitecustomize.py").write_text(SITE.replace("@TOLD@", str(self.told)))
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)

    def tell(self, *faults: str) -> None:
        """From now on these faults and no others.

        Args:
            faults: `PLACE RANKS SECONDS`: seconds more at each call there; `raise` for an error.
        """
        new = self.told.with_suffix(".new")
        new.write_text("\n".join(faults))
        os.replace(new, self.told)
