"""Score what a fit left on files of a phase, as FALCON's evaluator does, without its package."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ndt3_dist import log
from ndt3_dist.tasks.falcon.decoder import How, MovementDecoder
from ndt3_dist.tasks.falcon.fitted import read_fitted
from ndt3_dist.tasks.falcon.handwriting import TextDecoder
from ndt3_dist.tasks.falcon.scores import scores_of
from ndt3_dist.tasks.falcon.served import BIN_S, Served, find_files, read_served
from ndt3_dist.tasks.falcon.tags import task_of


def open_decoder(
    folder: str | Path, batch_size: int = 0, how: How | None = None
) -> MovementDecoder | TextDecoder:
    """What decodes the recordings that a fit was for."""
    if task_of(read_fitted(folder).task).dims:
        return MovementDecoder(folder, batch_size, how)
    return TextDecoder(folder, how)


def evaluate(
    folder: str | Path,
    data: str | Path,
    phase: str = "minival",
    batch_size: int = 0,
    how: How | None = None,
) -> dict:
    """Decode and score all files of a phase.

    Args:
        folder: What a fit left.
        data: As in `find_files`.
        batch_size: Recordings decoded together; no more than the evaluator serves.
    Returns:
        task, mode, phase, scores (the evaluator's names; Normalized Latency is seconds of
        computing over seconds of recording, of held-out recordings where there are any) and
        sessions: scores by session.
    """
    decoder = open_decoder(folder, batch_size, how)
    task = decoder.task
    decoder.set_batch_size(min(decoder.batch_size, task.batch))
    files = [read_served(task, path) for path in find_files(data, task, phase)]
    decoded = written if isinstance(decoder, TextDecoder) else moved
    found, latencies = [], []
    for side in (task.held_out, task.held_in):  # never together in a batch
        mine = [served for served in files if served.tag in side]
        computing_s = 0.0
        for first in range(0, len(mine), decoder.batch_size):
            batch = mine[first : first + decoder.batch_size]
            predictions, seconds = decoded(decoder, batch)  # pyright: ignore[reportArgumentType]
            found += zip(batch, predictions, strict=True)
            computing_s += seconds
        if mine:
            latencies.append(computing_s / sum(len(served.counts) * BIN_S for served in mine))
    summary, sessions = scores_of(task, found)
    return {
        "task": task.name,
        "mode": decoder.fitted.mode,
        "phase": phase,
        "scores": {"Normalized Latency": latencies[0], **summary},
        "sessions": sessions,
    }


def moved(decoder: MovementDecoder, batch: list[Served]) -> tuple[list[np.ndarray], float]:
    """Predictions of recordings that are served together, (bins, dims) each, and seconds."""
    longest = max(len(served.counts) for served in batch)
    padded = np.zeros((longest, len(batch), decoder.task.channels), np.uint8)
    for place, served in enumerate(batch):
        padded[: len(served.counts), place] = served.counts
    decoder.reset([served.tag for served in batch])
    found, seconds = np.empty((longest, len(batch), decoder.task.dims)), 0.0
    for number, counts in enumerate(_bins(padded)):
        began = time.perf_counter()
        found[number] = decoder.predict(counts)
        seconds += time.perf_counter() - began
    return [found[: len(s.counts), place].copy() for place, s in enumerate(batch)], seconds


def written(decoder: TextDecoder, batch: list[Served]) -> tuple[list[list[str]], float]:
    """Texts of the trials of a recording, and the seconds that they took."""
    found, seconds = [], 0.0
    for served in batch:
        decoder.reset([served.tag])
        texts = []
        for counts, shown, ends in zip(
            _bins(served.counts[:, None]), served.mask, served.ends, strict=True
        ):
            began = time.perf_counter()
            if shown:
                decoder.predict(counts)
            seconds += time.perf_counter() - began
            if ends:
                texts.append(decoder.on_done(np.array([True])))
        found.append(texts)
    return found, seconds


def _bins(counts: np.ndarray) -> Iterator[np.ndarray]:
    with log.counting("decoding", len(counts), unit="bins") as step:
        for of_bin in counts:
            yield of_bin
            step.add(1)
