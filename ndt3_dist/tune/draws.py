"""The steps of a fine-tune (`train.run.Steps`): windows at random starts inside the fit splits."""

from collections.abc import Iterator

import numpy as np

from ndt3_dist.data.order import Cursor, generator
from ndt3_dist.data.stream import Rows, Share, Step
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.objective.masking import draw_hidden
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.tune.joint import Joint


class Windows:
    """All windows that a fine-tune may draw, by number: those of the fit splits, at any start in
    order of sessions and time, then those that are replayed."""

    def __init__(self, data: Joint, model: ModelConfig):
        self.replayed, self.weight, self.model = data.replayed, data.weight, model
        fitted = [(one, Layout.of(one.session, model)) for one in data.fitted]
        self.pieces = [(one, layout, piece) for one, layout in fitted for piece in one.first]
        self.ends = np.cumsum([len(piece) - one.window + 1 for one, _, piece in self.pieces])
        earlier = data.replayed.sessions if data.replayed else []
        self.earlier = {session.id: Layout.of(session, model) for session in earlier}

    @property
    def fitted(self) -> int:
        return int(self.ends[-1])

    def start(self, number: int) -> tuple[int, int]:
        """Piece of a window of a fit split, and its first bin in it."""
        piece = int(np.searchsorted(self.ends, number, side="right"))
        return piece, number - int(self.ends[piece - 1] if piece else 0)

    def tokens(self, number: int, draw: np.random.Generator) -> tuple[dict[str, np.ndarray], int]:
        """Of a window, as `tokenise` gives them; `draw` hides some where the model is masked."""
        if number >= self.fitted and self.replayed:
            sample, session = self.replayed.window(number - self.fitted)
            layout = self.earlier[session.id]
        else:
            at, start = self.start(number)
            data, layout, piece = self.pieces[at]
            sample = piece.window(start, start + data.window)
        hidden = None
        if self.model.objective == "masked":
            hidden = draw_hidden(len(sample["spikes"]), len(layout.real), self.model, draw)
        return tokenise(sample, layout, self.model, hidden=hidden)

    def name(self, number: int) -> str:
        """Of a window, for people."""
        if number >= self.fitted and self.replayed:
            return self.replayed.name(number - self.fitted)
        at, start = self.start(number)
        data, _, piece = self.pieces[at]
        return f"{data.session.id} bin {piece.start_bin + start}"


class Draws:
    """One micro-batch a step, drawn by the seed and the step's number alone.

    Schedules run in steps: one pass is one step.
    """

    rank, world_size = 0, 1

    def __init__(self, data: Joint, model, batch: int, seed: int, start: Cursor | None = None):
        """
        Args:
            data: Where windows may begin, and what is replayed.
            model: NDT3, whose config decides their tokens.
            batch: Windows of a step.
            start: Where it goes on.
        """
        self.windows, self.batch, self.seed = Windows(data, model.config), batch, seed
        self.start = start or Cursor()
        self.datasets = [data.sessions[0].dataset]
        self.fingerprint = data.manifest.fingerprint

    def steps(self, cursor: Cursor, share: Share) -> Iterator[Step]:
        while True:
            draw = generator("windows", self.seed, cursor.position + 1)
            arrays, numbers = draw_windows(self.windows, self.batch, draw)
            counts = spike_targets(arrays, self.windows.model), arrays["covariate_valid"].sum()
            totals = np.array([self.batch, len(arrays["time"]), *counts])
            share(totals, [])
            cursor = Cursor(cursor.position + 1, cursor.samples_seen + self.batch)
            yield Step([(0, arrays)], [(0, 0, numbers)], totals, after=cursor)

    def epochs(self, cursor: Cursor) -> float:
        return cursor.position

    def steps_in(self, epochs: float) -> float:
        return epochs

    def state(self, cursor: Cursor) -> dict:
        return {"place": vars(cursor)}

    def names(self, rows: Rows) -> list[str]:
        return [self.windows.name(n) for *_, numbers in rows for n in numbers.tolist()]

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


def draw_windows(windows: Windows, count: int, draw) -> tuple[dict, np.ndarray]:
    """Packed arrays of `count` windows, and their numbers.

    Every start of every session is as likely as any other. Of the windows the replayed are their
    share, rounded up or down at random.
    """
    replays = int(windows.weight * count + draw.random()) if windows.replayed else 0
    numbers = draw.integers(0, windows.fitted, count - replays)
    if windows.replayed:
        more = draw.integers(0, len(windows.replayed), replays)
        numbers = np.concatenate([numbers, windows.fitted + more])
    lists = TokenLists()
    for number in numbers.tolist():
        lists.add(*windows.tokens(number, draw))
    return lists.pack(), numbers
