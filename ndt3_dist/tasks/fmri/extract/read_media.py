"""Frames, sound and words of a film: decoded by PyAV from its file, words from its transcript."""

import ast
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist.errors import BadInput

FILMS = ".mkv", ".mp4", ".avi", ".mov", ".webm"
SOUNDS = ".wav", ".flac", ".mp3", ".ogg"
WORDS = "text_per_tr"
"""Column of a transcript, which has a row for each sample of BOLD."""


def opened(path: Path, kind: str) -> tuple[Any, Any]:
    """A file and its first stream of a kind. Raises BadInput where there is none."""
    try:
        import av
    except ImportError as e:
        raise BadInput(f"{path}: PyAV decodes films; pip install 'ndt3_dist[fmri]' ({e})") from e
    try:
        container = av.open(str(path))
    except (OSError, ValueError) as e:  # PyAV's own errors are both
        raise BadInput(f"{path}: cannot be decoded ({e}); fetch it again") from e
    found = [s for s in container.streams if s.type == kind]
    if not found:
        container.close()
        raise BadInput(f"{path}: has no {kind}")
    return container, found[0]


def duration_s(path: Path) -> float:
    """As the file says it. Raises BadInput where it does not."""
    container, stream = opened(path, "audio" if path.suffix in SOUNDS else "video")
    with container:
        length = container.duration
        if length:
            return length / 1e6
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
    raise BadInput(f"{path}: does not say how long it is; write it anew (ffmpeg -i X -c copy Y)")


def frames_at(path: Path, step_s: float) -> Iterator[np.ndarray]:
    """The frames that are shown at 0, step_s, 2 step_s ... to the end, (height, width, 3) uint8."""
    end_s = duration_s(path)
    container, stream = opened(path, "video")
    with container:
        wanted, shown = 0, None
        try:
            for frame in container.decode(stream):
                while shown is not None and wanted * step_s < (frame.time or 0.0):
                    yield shown
                    wanted += 1
                shown = frame.to_ndarray(format="rgb24")
        except (OSError, ValueError) as e:
            raise BadInput(f"{path}: cannot be decoded after frame {wanted} ({e})") from e
        while shown is not None and wanted * step_s < end_s:
            yield shown
            wanted += 1


def sound_of(path: Path, rate_hz: int) -> np.ndarray:
    """All of a film's sound in one channel, (samples,) float32 from -1 to 1."""
    container, stream = opened(path, "audio")
    import av

    with container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate_hz)
        try:
            parts = [
                part.to_ndarray()[0]
                for frame in [*container.decode(stream), None]
                for part in resampler.resample(frame)
            ]
        except (OSError, ValueError) as e:
            raise BadInput(f"{path}: its sound cannot be decoded ({e})") from e
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)


def words_of(path: Path) -> list[str]:
    """What is said in each sample, from a transcript."""
    with path.open(newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        if WORDS not in (rows.fieldnames or ()):
            raise BadInput(f"{path}: columns {rows.fieldnames}; expected {WORDS} among them")
        found = [row[WORDS] or "" for row in rows]
    return ["" if text.lower() == "nan" else plain_text(text) for text in found]


def plain_text(text: str) -> str:
    """A cell as text; a list in one is joined."""
    if not text.startswith("["):
        return text
    try:
        return " ".join(map(str, ast.literal_eval(text)))
    except (ValueError, SyntaxError):
        return text
