"""What decoders made of some bins, in a file: truth, predictions by name, and what they are of."""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ndt3_dist import storage
from ndt3_dist.errors import BadInput

PREFIX = "predicted."


def save_predictions(path: str | Path, result: Mapping) -> None:
    """Keep a result of `evaluate.session.evaluate`: arrays by name, the rest as JSON in `about`."""
    arrays = {PREFIX + name: found for name, found in result["predictions"].items()}
    rest = {k: v for k, v in result.items() if k not in ("truth", "predictions")}
    file = io.BytesIO()
    np.savez(file, truth=result["truth"], about=np.array(json.dumps(rest)), **arrays)
    storage.write_bytes(path, file.getvalue())


def read_predictions(path: str | Path) -> dict:
    """What `save_predictions` kept. Raises BadInput for another file."""
    try:
        with np.load(io.BytesIO(storage.read_bytes(path)), allow_pickle=False) as found:
            names = [name for name in found.files if name.startswith(PREFIX)]
            predictions = {name.removeprefix(PREFIX): found[name] for name in names}
            about = json.loads(str(found["about"]))
            return {**about, "truth": found["truth"], "predictions": predictions}
    except (ValueError, KeyError, OSError, zipfile.BadZipFile):
        raise BadInput(f"{path}: not an evaluation; remove it, or evaluate again") from None


def mean_of(predictions: list[np.ndarray]) -> np.ndarray:
    """The mean of several decoders' predictions of the same bins.

    Raises:
        BadInput: They are of other bins.
    """
    shapes = {p.shape for p in predictions}
    if len(shapes) != 1:
        raise BadInput(f"predictions of shapes {sorted(shapes)}; expected the same bins and dims")
    return np.mean(predictions, axis=0)
