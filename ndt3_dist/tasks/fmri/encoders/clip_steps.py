"""The steps of a training on clips (`train.run.Steps`): windows of all clips, shuffled anew.

An epoch shows each clip from its first to its last sample, in windows whose starts move a little.
What a step holds follows from the seed and its number alone.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from ndt3_dist.data.order import Cursor, generator
from ndt3_dist.data.stream import Rows, Share, Step
from ndt3_dist.tasks.fmri.clips.clip_source import Clip
from ndt3_dist.tasks.fmri.encoders.clip_scales import ClipScales
from ndt3_dist.tasks.fmri.encoders.encoder import Encoder, pack

Window = tuple[Clip, int, int]
"""A clip, its first row and its last + 1."""


class ClipSteps:
    """One micro-batch a step, of one process.

    Attributes:
        steps_of_epoch: In a pass over all clips.
    """

    rank, world_size, fingerprint = 0, 1, ""

    def __init__(
        self,
        scales: ClipScales,
        model: Encoder,
        clips: Sequence[Clip],
        batch: int,
        window: int,
        seed: int,
        start: Cursor | None = None,
    ):
        """
        Args:
            clips: That are trained on.
            batch: Windows of a step.
            window: Samples of a window; 0 = whole clips.
            start: Where it goes on.
        """
        self.scales, self.clips, self.batch, self.window = scales, list(clips), batch, window
        self.targets, self.seed, self.start = len(model.targets), seed, start or Cursor()
        self.datasets = ["clips"]
        self.steps_of_epoch = -(-sum(self._number(clip) for clip in self.clips) // batch)
        self.windows_of = lru_cache(2)(self._windows_of)

    def _number(self, clip: Clip) -> int:
        return -(-clip.rows // self.window) if 0 < self.window < clip.rows else 1

    def _windows_of(self, epoch: int) -> list[Window]:
        """All windows of an epoch, in the order in which they come."""
        draw, found = generator("clips", self.seed, epoch), []
        for clip in self.clips:
            number, length = self._number(clip), min(self.window or clip.rows, clip.rows)
            last = clip.rows - length
            moves = draw.integers(-(length // 4), length // 4 + 1, number)
            starts = np.linspace(0, last, number).round().astype(int) + moves * (number > 1)
            found += [(clip, s, s + length) for s in np.clip(starts, 0, last).tolist()]
        return [found[i] for i in draw.permutation(len(found))]

    def windows_at(self, position: int) -> list[Window]:
        """The windows of a step."""
        epoch, step = divmod(position, self.steps_of_epoch)
        return self.windows_of(epoch)[step * self.batch : (step + 1) * self.batch]

    def load(self, position: int) -> dict[str, np.ndarray]:
        """Packed arrays of a step."""
        read = [self.scales.read(*window) for window in self.windows_at(position)]
        return pack([(features, bold.reshape(len(bold), -1)) for features, bold in read])

    def steps(self, cursor: Cursor, share: Share) -> Iterator[Step]:
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self.load, cursor.position)
            while True:
                arrays = ahead.result()
                ahead = pool.submit(self.load, cursor.position + 1)
                windows = len(arrays["lengths"])
                valid = int(np.isfinite(arrays["bold"]).sum())
                totals = np.array([windows, len(arrays["features"]), *[valid] * self.targets])
                share(totals, [])
                numbers = np.arange(windows) + cursor.samples_seen
                at, cursor = cursor, Cursor(cursor.position + 1, cursor.samples_seen + windows)
                epoch = at.position // self.steps_of_epoch
                yield Step([(0, arrays)], [(0, epoch, numbers)], totals, after=cursor)

    def epochs(self, cursor: Cursor) -> float:
        return cursor.position / self.steps_of_epoch

    def steps_in(self, epochs: float) -> float:
        return epochs * self.steps_of_epoch

    def state(self, cursor: Cursor) -> dict:
        return {"place": vars(cursor)}

    def names(self, rows: Rows) -> list[str]:
        every, found = len(self.windows_of(0)), []
        for _, epoch, numbers in rows:
            windows = self.windows_of(epoch)
            found += [windows[int(n) - epoch * every] for n in numbers]
        return [f"{clip.id} rows {start} to {stop}" for clip, start, stop in found]

    def datasets_of(self, numbers: np.ndarray) -> np.ndarray:
        return np.zeros(len(numbers), np.int64)

    def counts_of(self, numbers: np.ndarray) -> np.ndarray:
        raise NotImplementedError("a step has one micro-batch")

    def over_represented(self, rows: Rows) -> list[tuple[str, int, float]]:
        return []
