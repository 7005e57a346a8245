"""Clips on their way into a corpus: one small JSON file each, and the recipe's reader of them.

The recording of a clip has a stream for each stream of features and the stream `bold` with all
subjects side by side, at one row per sample. A JSON file has hashes of all that it names, so that a
clip whose features change is another recording.
"""

import json
from pathlib import Path

import numpy as np
import xxhash

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput
from ndt3_dist.readers.options import ReadOptions
from ndt3_dist.readers.recording import Recording, Signal
from ndt3_dist.tasks.fmri.clips.bold_runs import BoldRuns, Run
from ndt3_dist.tasks.fmri.clips.clip_source import BOLD, Clip, TreeSource
from ndt3_dist.tasks.fmri.clips.feature_tree import Rows

TR_S = 1.49
"""Between two samples of BOLD."""
SUBJECT = "all"
"""Of the session ids: a clip is one recording of all subjects."""


def write_clips(source: TreeSource, out: str | Path) -> list[Path]:
    """Write OUT/CLIP.json of each clip; all that it names is read once, for its hash."""
    runs: BoldRuns = source.runs
    Path(out).mkdir(parents=True, exist_ok=True)
    written = []
    for clip in log.progress(source.clips, "hashing clips"):
        features = {}
        for stream, files in source.tree.files.items():
            path = files[clip.name].absolute()
            features[stream] = {"path": str(path), "layer": source.tree.layers[stream]}
            features[stream]["sha256"] = storage.sha256_file(path)
        bold = {}
        for subject, run in runs.runs[clip.name, clip.number].items():
            values = runs.read(clip.name, clip.number, 0, clip.rows)
            mine = np.ascontiguousarray(values[: run.rows, runs.subjects.index(subject)])
            hashed = xxhash.xxh3_128_hexdigest(mine.tobytes())
            place = {"path": str(run.path.absolute()), "key": run.key, "rows": run.rows}
            bold[subject] = {**place, "xxh3_128": hashed}
        what = {"clip": clip.name, "run": clip.number, "rows": clip.rows, "features": features}
        what |= {"subjects": runs.subjects, "parcels": runs.parcels, "bold": bold}
        written.append(Path(out, f"{clip.id}.json"))
        storage.write_json(written[-1], what)
    return written


def read(path: str | Path, options: ReadOptions) -> Recording:
    """The recording of a clip, for a recipe's `reader`.

    Args:
        path: A file of `write_clips`.
        options: `options: {dtype: float16}` halves the features.
    """
    try:
        what = json.loads(Path(path).read_text())
        clip = Clip(what["clip"], what["run"], what["rows"])
        features, subjects, parcels = what["features"], what["subjects"], what["parcels"]
        shown = {s: Run(Path(b["path"]), b["key"], b["rows"]) for s, b in what["bold"].items()}
    except (ValueError, KeyError, TypeError) as e:
        raise BadInput(f"{path}: not a clip ({e!r}); `ndt3 fmri index` writes them") from e
    dtype = str(options.options.get("dtype", "float32"))
    rows, times = np.arange(clip.rows), np.arange(clip.rows) * TR_S
    signals = []
    for stream, place in features.items():
        values = Rows(Path(place["path"]), place["layer"]).read(rows)
        values[~np.isfinite(values)] = np.nan
        signals.append(Signal(stream, values, times, "1", dtype=dtype, max_gap_s=TR_S))
    runs = BoldRuns.of(subjects, parcels, {(clip.name, clip.number): shown})
    bold = runs.read(clip.name, clip.number, 0, clip.rows).reshape(clip.rows, -1)
    runs.close()
    signals.append(Signal(BOLD, bold, times, "1", max_gap_s=TR_S))
    return Recording(SUBJECT, clip.id, [], [], 0.0, clip.rows * TR_S, signals=signals)


def standardise(recording: Recording) -> Recording:
    """Each column of features and BOLD to mean 0 and deviation 1 over the clip, for a recipe's
    `preprocess`."""
    for signal in recording.signals:
        known = np.isfinite(signal.values)
        number = np.maximum(known.sum(0), 1)
        values = np.where(known, signal.values, 0).astype(np.float64)
        apart = np.where(known, values - values.sum(0) / number, 0)
        deviation = np.sqrt((apart**2).sum(0) / number)
        scaled = apart / np.where(deviation > 1e-8, deviation, 1)
        signal.values = np.where(known, scaled, np.nan).astype(np.float32)
        signal.unit = "deviation"
    return recording
