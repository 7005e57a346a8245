"""What a run is, from the files in its folder: model, data, when, and on what.

Whatever no file says is left out: fine-tunes do not note where they ran, and what draws windows at
random makes no passes.
"""

import json
import math
from pathlib import Path

from ndt3_dist import log, storage
from ndt3_dist.checkpoint.steps import newest
from ndt3_dist.pages.course import Course
from ndt3_dist.pages.words import Name, Number, count
from ndt3_dist.train.settings import STARTS


def read_if_there(path: str) -> dict:
    """A JSON object; an empty one where there is none."""
    found = storage.read_json(path) if storage.exists(path) else {}
    return found if isinstance(found, dict) else {}


def model_facts(run: str | Path) -> dict[str, object]:
    """Of the newest checkpoint; of the export where there is no checkpoint (any more)."""
    checkpoint = newest(run, log.warn)
    if checkpoint:
        shapes = checkpoint.meta["parameters"].values()
        parameters: int | None = sum(math.prod(shape) for shape in shapes)
        model = checkpoint.meta["config"]["model"]
    else:
        export = read_if_there(storage.join(run, "export", "config.json"))
        parameters, model = export.get("parameters"), export.get("model", {})
    found: dict[str, object] = {"parameters": parameters} if parameters else {}
    if {"layers", "dim"} <= {*model}:  # a model of a user's own may have neither
        found["layers x width"] = Number(f"{model['layers']} x {count(model['dim'])}")
    return found


def data_facts(run: str | Path, course: Course) -> dict[str, object]:
    """Sessions that it saw, and what one pass over them has."""
    for folder in (run, storage.join(run, "export")):
        norms = read_if_there(storage.join(folder, "normalisation.json"))
        if norms:
            break
    found: dict[str, object] = {"sessions": len(norms["sessions"])} if norms else {}
    windows = course.a_pass("samples")
    if norms and windows:
        found["hours"] = windows * norms["window_bins"] * norms["bin_size_ms"] / 3.6e6
    if windows:
        found["windows"] = round(windows)
    if tokens := course.a_pass("tokens"):
        found["tokens_of_a_pass"] = round(tokens)
    return found


def start_facts(run: str | Path) -> dict[str, object]:
    """When it began, and on what it last ran."""
    lines = storage.read_text(storage.join(run, STARTS)).splitlines()
    if not lines:
        return {}
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    found: dict[str, object] = {"begun": Number(first["time"][:10])}
    if "device" in last:  # earlier versions did not note it
        found["device"] = Name(last["device"])
    return {**found, "processes": last["ranks"], "starts": len(lines)}


def run_facts(run: str | Path, course: Course) -> dict[str, object]:
    """All of these, under keys that `words.told` knows the units of."""
    return {**model_facts(run), **data_facts(run, course), **start_facts(run)}
