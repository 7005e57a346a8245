"""Decode handwriting (FALCON h2): a recurrent head over NDT3's features of each bin.

The features of a bin are what NDT3 would read a covariate of it from: they have seen its spikes and
those of the bins before it, as many as the context holds. `text_fit` fits the head.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from ndt3_dist.data.continuous import Piece
from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.evaluate.decode import passes
from ndt3_dist.evaluate.online import OnlineDecoder
from ndt3_dist.model.load import load_model, read_normalisation
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokenise import Layout
from ndt3_dist.tasks.falcon.decoder import How, checked_bin
from ndt3_dist.tasks.falcon.fitted import read_fitted
from ndt3_dist.tasks.falcon.served import read_served
from ndt3_dist.tasks.falcon.tags import TASKS, Task
from ndt3_dist.tasks.falcon.text_head import as_symbols, as_text, load_head


@dataclass
class Trial:
    """Attributes:
    counts: (bins, channels) uint8.
    text: What was written.
    symbols: Their numbers.
    """

    counts: np.ndarray
    text: str
    symbols: list[int]


def read_trials(task: Task, path: str | Path) -> list[Trial]:
    """Trials of a recording: bins that are scored, and their texts."""
    served, found, first = read_served(task, path), [], 0
    for number, (stop, text) in enumerate(
        zip(np.flatnonzero(served.ends) + 1, served.texts, strict=True)
    ):
        counts = served.counts[first:stop][served.mask[first:stop]]
        symbols = as_symbols(text, f"{path}, trial {number}")
        repeats = sum(a == b for a, b in pairwise(symbols))
        if len(counts) < len(symbols) + repeats:
            raise BadInput(
                f"{path}, trial {number}: {len(counts)} bins for {text!r}; CTC needs one for each "
                "symbol and one between equal ones"
            )
        found.append(Trial(counts, text, symbols))
        first = stop
    return found


def layout_of(model: NDT3, channels: int) -> Layout:
    """Bins of one array with a single slot to read from."""
    return Layout.from_counts([channels], 1, model.config, "h2")


def features_of(model: NDT3, counts: np.ndarray, context: int, stride: int) -> torch.Tensor:
    """Features of consecutive bins, (bins, width); stride 0 = as kept streams have them, without
    gradients, else of windows that give so many bins each."""
    piece = Piece(0, counts, np.full((len(counts), 1), np.nan, np.float32))
    layout, found = layout_of(model, counts.shape[1]), []
    for features, tokens, places in passes(model, piece, layout, context, stride):
        states = features[tokens.covariate_slot]
        found += [states[last] for last, _ in places]
    return torch.cat(found)


class TextDecoder:
    """As `decoder.MovementDecoder`, for the one recording at a time that h2 is served by.

    `predict` reads a bin, `on_done` gives the text of the trial that has ended.
    """

    batch_size = 1

    def __init__(self, folder: str | Path, how: How | None = None):
        self.folder, self.fitted, how = Path(folder), read_fitted(folder), how or How()
        self.task, where = TASKS["h2"], self.folder / self.fitted.exports[0]
        device = how.device or ("cuda" if torch.cuda.is_available() else "cpu")
        model = load_model(where, device)
        self.head = load_head(where, model.config.dim).to(device)
        context = (
            how.context or self.fitted.context or int(read_normalisation(where)["window_bins"])
        )
        layout = layout_of(model, self.task.channels)
        self.online = OnlineDecoder(model, layout, context, how.keep, kind=how.kind)
        self.state: torch.Tensor | None = None
        self.best: list[int] = []
        self.tag = ""

    def set_batch_size(self, batch_size: int) -> None:
        if batch_size != 1:
            raise BadInput(f"batch size {batch_size}: h2 is decoded one recording at a time")

    def reset(self, dataset_tags: Iterable[str | Path]) -> None:
        """Begin a recording."""
        names = [*dataset_tags]
        if len(names) != 1:
            raise BadInput(f"{len(names)} recordings; h2 is decoded one at a time")
        self.tag, _ = self.fitted.of(self.task, names[0])
        self._begin()

    def _begin(self) -> None:
        self.online.reset()
        self.state, self.best = None, []

    @torch.no_grad()
    def predict(self, neural_observations: np.ndarray) -> np.ndarray:
        """Read the next bin, (1, channels); the log-probabilities of blank and symbols, (1, n)."""
        states = self.online.hidden(checked_bin(neural_observations, 1, self.task))
        found, self.state = self.head(states.view(1, 1, -1), self.state)
        if not found.isfinite().all():
            raise CheckpointCorrupt(
                f"{self.tag}, bin {len(self.best)} of a trial: the prediction is not finite; look "
                f"at {self.folder}"
            )
        self.best.append(int(found[0, 0].argmax()))
        return found[0].cpu().numpy()

    def observe(self, neural_observations: np.ndarray) -> None:
        """Read the next bin."""
        self.predict(neural_observations)

    def on_done(self, dones: np.ndarray) -> str:
        """The text since the last one, where the trial has ended; then nothing is remembered."""
        if not np.any(dones):
            return ""
        text = as_text(np.array(self.best))
        self._begin()
        return text
