"""What a decoder sees of each word at a lag: windows through preprocessing, kept on disk once.

Windows are taken some words at a time, so that memory holds what comes out and never all windows of
all channels. Steps of ours see each word alone; a user's own gets all words at once, as the podcast
benchmark's do, unless `block_words` is among its params.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ndt3_dist import storage
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.words.frozen import encoded
from ndt3_dist.tasks.words.plug_in import find
from ndt3_dist.tasks.words.series import Series, windows
from ndt3_dist.tasks.words.word_config import Experiment

BLOCK_BYTES = 64_000_000
"""Of windows that are in memory at once, about."""
Step = Callable[[np.ndarray, dict], np.ndarray]


def window_average(data: np.ndarray, params: dict) -> np.ndarray:
    """Means of every `num_average_samples` samples, (words, channels, bins)."""
    return bins_of(data, params).mean(-1)


def window_rms(data: np.ndarray, params: dict) -> np.ndarray:
    """Root mean squares of them."""
    return np.sqrt((bins_of(data, params).astype(np.float64) ** 2).mean(-1))


def bins_of(data: np.ndarray, params: dict) -> np.ndarray:
    """(words, channels, bins, samples); samples that fill no bin are left out."""
    number = int(params.get("num_average_samples", 1))
    if not 1 <= number <= data.shape[-1]:
        raise BadInput(
            f"num_average_samples {number}: a window has {data.shape[-1]} samples; take fewer"
        )
    whole = data.shape[-1] // number
    return data[..., : whole * number].reshape(*data.shape[:-1], whole, number)


def log_transform(data: np.ndarray, params: dict) -> np.ndarray:
    """log of the size, not below `epsilon`."""
    return np.log(np.maximum(np.abs(data), float(params.get("epsilon", 1e-6))))


def zscore(data: np.ndarray, params: dict) -> np.ndarray:
    """Nothing here: each fold standardises by its training words (`data_params.standardise`)."""
    return data


STEPS: dict[str, Step] = {
    "window_average_neural_data": window_average,
    "window_rms": window_rms,
    "log_transform": log_transform,
    "zscore": zscore,
}


def steps_of(stage: Experiment) -> list[tuple[Step, dict]]:
    """Preprocessing in order, each with its params. Raises BadInput where they do not pair."""
    said, params = stage.data.preprocessing_fn_name or [], stage.data.preprocessor_params
    names = [said] if isinstance(said, str) else said
    of = list(params) if isinstance(params, list) else [params] * len(names)
    if len(of) != len(names):
        raise BadInput(f"{len(of)} preprocessor_params of {len(names)} preprocessing_fn_name")
    return [
        (find(name, "preprocessing_fn_name", STEPS, stage.plugins), dict(one or {}))
        for name, one in zip(names, of, strict=True)
    ]


def preprocess(data: np.ndarray, steps: Sequence[tuple[Step, dict]]) -> np.ndarray:
    for step, params in steps:
        made = np.asarray(step(data, params))
        if len(made) != len(data):
            raise BadInput(
                f"{step.__name__} gave {len(made)} rows of {len(data)} words; expected as many"
            )
        data = made
    return data


def make_features(
    stage: Experiment, series: Sequence[Series], starts: np.ndarray, lag: int, path: Path
) -> None:
    """Write what comes of all words' windows at a lag, (words, ...) float32, unless it is there."""
    if path.is_file():
        return
    steps, width = steps_of(stage), stage.data.window_width
    factor = 1e-6 if stage.data.signal_unit in (None, "V") else 1.0
    if stage.model_spec.encoder:

        def windows_of(one: Series) -> np.ndarray:
            return preprocess(windows([one], starts, lag, width) * np.float32(factor), steps)

        kept = Path(stage.output_dir) / "cache" / "frozen"
        made = encoded(stage, series, starts, lag, kept, windows_of)
        with storage.atomic_file(path) as file:
            np.save(file, made)
        return
    all_ours = all(step in STEPS.values() or "block_words" in p for step, p in steps)
    channels = sum(len(one.columns) for one in series)
    each = 4 * channels * max(1, round(width * series[0].rate_hz))
    number = max(1, BLOCK_BYTES // each) if all_ours else len(starts)
    said = [int(p["block_words"]) for _, p in steps if "block_words" in p]
    number = min([number, *said])
    values = None
    with storage.atomic_file(path) as file:
        for first in range(0, len(starts), number):
            part = windows(series, starts[first : first + number], lag, width)
            made = preprocess(part * np.float32(factor) if factor != 1 else part, steps)
            if values is None:
                shape = len(starts), *made.shape[1:]
                np.lib.format.write_array_header_2_0(
                    file, {"descr": "<f4", "fortran_order": False, "shape": shape}
                )
                values = True
            file.write(np.ascontiguousarray(made, np.float32).tobytes())
