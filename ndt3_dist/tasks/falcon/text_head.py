"""Text from the features of bins: symbols, a recurrent head that scores them, greedy decoding.

Symbols are those of h2's sentences: a to z, ' , > ? ~, where > parts words and ~ ends a sentence; 0
is the blank of connectionist temporal classification.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ndt3_dist.errors import BadInput, CheckpointCorrupt

SYMBOLS = "',>?abcdefghijklmnopqrstuvwxyz~"
BLANK = 0
FILE = "text_head.safetensors"


class TextHead(nn.Module):
    """Scores of the symbols in each bin, from it and earlier ones alone."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.width = width
        self.memory = nn.GRU(width, hidden, batch_first=True)
        self.out = nn.Linear(hidden, len(SYMBOLS) + 1)

    def forward(self, features: torch.Tensor, state: torch.Tensor | None = None):
        """
        Args:
            features: (trials, bins, width).
            state: What is kept of earlier bins, (1, trials, hidden).
        Returns:
            Log-probabilities of blank and symbols, (trials, bins, 1 + symbols), and the state.
        """
        scaled = F.layer_norm(features.float(), (self.width,))
        found, state = self.memory(scaled, state)
        return self.out(found).log_softmax(-1), state


def save_head(head: TextHead, folder: str | Path) -> None:
    """Write the head beside the export that its features come from."""
    weights = {name: t.detach().cpu().contiguous() for name, t in head.state_dict().items()}
    save_file(weights, str(Path(folder) / FILE))


def load_head(folder: str | Path, width: int) -> TextHead:
    """The head in a folder; CheckpointCorrupt where it is missing or of another width."""
    file = Path(folder) / FILE
    try:
        weights = load_file(str(file))
        hidden = weights["memory.weight_hh_l0"].shape[1]
        head = TextHead(width, hidden)
        head.load_state_dict(weights)
    except (SafetensorError, OSError, KeyError, RuntimeError) as e:
        said = str(e).splitlines()[0]
        raise CheckpointCorrupt(f"{file}: cannot be read ({said}); fit again") from e
    if not all(t.isfinite().all() for t in weights.values()):
        raise CheckpointCorrupt(f"{file}: values that are not finite; fit again")
    return head.eval()


def as_symbols(text: str, where: str) -> list[int]:
    """Numbers of the symbols of a text, from 1; BadInput where it has others."""
    if strange := sorted({*text} - {*SYMBOLS}):
        raise BadInput(f"{where}: {text!r} has {' '.join(strange)}; expected only {SYMBOLS}")
    return [SYMBOLS.index(c) + 1 for c in text]


def as_text(best: np.ndarray) -> str:
    """The text of the likeliest symbol of each bin, (bins,): repeats once, blanks left out."""
    best = np.asarray(best, int)
    if not len(best):
        return ""
    begins = np.r_[True, best[1:] != best[:-1]] & (best != BLANK)
    return "".join(SYMBOLS[number - 1] for number in best[begins])
