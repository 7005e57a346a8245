"""The steps of a fine-tune (`train.run.Steps`): windows at random starts inside the fit split."""

from collections.abc import Iterator

import numpy as np

from ndt3_dist.data.order import Cursor, generator
from ndt3_dist.data.stream import Rows, Share, Step
from ndt3_dist.model.objective.masking import draw_hidden
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.tune.fit_data import FitData


class Draws:
    """One micro-batch a step, drawn by the seed and the step's number alone.

    Schedules run in steps: one pass is one step.
    """

    rank, world_size = 0, 1

    def __init__(self, data: FitData, model, batch: int, seed: int, start: Cursor | None = None):
        """
        Args:
            data: Where windows may begin.
            model: NDT3, whose config decides their tokens.
            batch: Windows of a step.
            start: Where it goes on.
        """
        self.data, self.config, self.batch, self.seed = data, model.config, batch, seed
        self.layout = Layout.of(data.session, model.config)
        self.start = start or Cursor()
        self.datasets = [data.session.dataset]
        self.fingerprint = data.manifest.fingerprint

    def steps(self, cursor: Cursor, share: Share) -> Iterator[Step]:
        while True:
            draw = generator("windows", self.seed, cursor.position + 1)
            arrays, starts = draw_windows(self.data, self.layout, self.config, self.batch, draw)
            counts = spike_targets(arrays, self.config), arrays["covariate_valid"].sum()
            totals = np.array([self.batch, len(arrays["time"]), *counts])
            share(totals, [])
            cursor = Cursor(cursor.position + 1, cursor.samples_seen + self.batch)
            yield Step([(0, arrays)], [(0, 0, starts)], totals, after=cursor)

    def epochs(self, cursor: Cursor) -> float:
        return cursor.position

    def steps_in(self, epochs: float) -> float:
        return epochs

    def state(self, cursor: Cursor) -> dict:
        return {"place": vars(cursor)}

    def names(self, rows: Rows) -> list[str]:
        return [f"{self.data.session.id} bin {n}" for *_, starts in rows for n in starts.tolist()]

    def datasets_of(self, numbers: np.ndarray) -> np.ndarray:
        return np.zeros(len(numbers), np.int64)

    def counts_of(self, numbers: np.ndarray) -> np.ndarray:
        raise NotImplementedError("a fine-tune has one micro-batch a step")

    def over_represented(self, rows: Rows) -> list[tuple[str, int, float]]:
        return []


def spike_targets(arrays: dict[str, np.ndarray], model) -> int:
    """Channels and bins of packed windows that a model is to predict."""
    channels = arrays["spike_channels"]
    return int(
        channels[arrays["spike_hidden"]].sum() if model.objective == "masked" else channels.sum()
    )


def draw_windows(data: FitData, layout: Layout, model, count: int, draw) -> tuple[dict, np.ndarray]:
    """Packed arrays of `count` windows at random starts, and their first bins."""
    room = np.array([len(r) - data.window + 1 for r in data.first])
    lists, starts = TokenLists(), []
    for pick in draw.integers(0, room.sum(), count).tolist():
        number = int(np.searchsorted(np.cumsum(room), pick, side="right"))
        start = pick - int(room[:number].sum())
        sample = data.first[number].window(start, start + data.window)
        hidden = None
        if model.objective == "masked":
            hidden = draw_hidden(data.window, len(layout.real), model, draw)
        lists.add(*tokenise(sample, layout, model, hidden=hidden))
        starts.append(data.first[number].start_bin + start)
    return lists.pack(), np.array(starts)
