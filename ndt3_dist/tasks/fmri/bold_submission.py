"""Submissions: predictions that are checked against the expected lengths, written and read.

A submission is one .npy with {subject: {clip: (samples, parcels) float32}}, and a zip of it. What
the official scorer refuses is refused before anything is written.
"""

import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.fmri.clips.numpy_pickle import read_dictionary
from ndt3_dist.tasks.fmri.portable_pickle import npy_pieces

PARCELS = 1000
"""Of the challenge."""
Samples = Mapping[str, Mapping[str, int]]
"""Subject -> clip -> expected samples."""
SHOWN = 8
"""Problems that a message names; the rest is counted."""


def problems(found: Any, expected: Samples, parcels: int = PARCELS) -> list[str]:
    """All that the official scorer would refuse in predictions, and why; empty where nothing."""
    if not isinstance(found, Mapping):
        return [f"is a {type(found).__name__}, expected a dictionary of subjects"]
    said = [f"has {key!r}, which is no subject asked for" for key in found if key not in expected]
    for subject, clips in expected.items():
        theirs = found.get(subject)
        if not isinstance(theirs, Mapping):
            said.append(f"has no clips of {subject}")
            continue
        said += [f"{subject} has {c!r}, which is not asked for" for c in theirs if c not in clips]
        for clip, rows in clips.items():
            if wrong := problem_of(theirs.get(clip), rows, parcels):
                said.append(f"{subject} {clip} {wrong}")
    return said


def problem_of(values: Any, rows: int, parcels: int) -> str:
    """What is wrong with one clip; empty where nothing."""
    if values is None:
        return "is missing"
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
        kind = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        return f"is {kind}, expected an array of floats"
    if values.shape != (rows, parcels):
        return f"is {values.shape}, expected {(rows, parcels)} (samples, parcels)"
    if not np.isfinite(values).all():
        return f"has {int((~np.isfinite(values)).sum())} values that are not finite"
    still = np.ptp(values, axis=0) == 0
    if still.any():
        return f"does not vary in {int(still.sum())} parcels, which have no correlation then"
    return ""


def check(found: Any, expected: Samples, parcels: int, where: str) -> None:
    """Raise BadInput that names what the official scorer would refuse."""
    said = problems(found, expected, parcels)
    if said:
        more = f"; and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
        raise BadInput(f"{where}: {'; '.join(said[:SHOWN])}{more} (the official score would be 0)")


def write(
    predictions: Mapping[str, Mapping[str, np.ndarray]],
    expected: Samples,
    out: Path,
    parcels: int = PARCELS,
) -> tuple[Path, Path]:
    """Check predictions and write OUT.npy and OUT.zip, each whole or not at all.

    Args:
        out: Without an ending.
    Returns:
        Both paths.
    """
    check(predictions, expected, parcels, str(out))
    plain = {
        subject: {clip: values.astype("<f4") for clip, values in clips.items()}
        for subject, clips in predictions.items()
    }
    npy, zipped = out.with_name(f"{out.name}.npy"), out.with_name(f"{out.name}.zip")
    out.parent.mkdir(parents=True, exist_ok=True)
    storage.write_pieces(npy, lambda: npy_pieces(plain))
    with (
        log.waiting(f"writing {zipped}"),
        storage.atomic_file(zipped) as f,
        zipfile.ZipFile(f, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        entry = zipfile.ZipInfo(npy.name, (1980, 1, 1, 0, 0, 0))  # the same bytes at any time
        entry.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(entry, "w", force_zip64=True) as inside, npy.open("rb") as whole:
            while piece := whole.read(1 << 22):
                inside.write(piece)
    return npy, zipped


def read(path: str | Path) -> dict[str, dict[str, np.ndarray]]:
    """Predictions of a .npy, or of a zip with exactly one. Nothing in them is run."""
    path = Path(path)
    if path.suffix != ".zip":
        return read_dictionary(path)
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        inside = [m for m in archive.infolist() if m.filename.endswith(".npy")]
        if len(inside) != 1:
            raise BadInput(f"{path}: has {len(inside)} .npy files, expected exactly one")
        copy = Path(folder, "submission.npy")
        with archive.open(inside[0]) as source, copy.open("wb") as to:
            while piece := source.read(1 << 22):
                to.write(piece)
        return read_dictionary(copy)
