"""Words with their times, and features of their sub-tokens joined to them by the word's number.

Two sets of features of one story may differ in how many words they have: nothing is ever joined by
position. A table of sub-tokens has a column word_idx; of one without it a row is a word.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.hdf5 import open_hdf5
from ndt3_dist.tasks.words.ieeg.bids_folder import column, read_table


@dataclass(frozen=True)
class WordTable:
    """Words in order of time.

    Attributes:
        index: Number of each word, (words,) int.
        text: As it is written.
        start, end: In s, (words,).
    """

    index: np.ndarray
    text: list[str]
    start: np.ndarray
    end: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: np.ndarray) -> "WordTable":
        """Some of them, by row."""
        return WordTable(
            self.index[rows], [self.text[r] for r in rows], self.start[rows], self.end[rows]
        )

    def at(self, onsets: dict[int, float]) -> "WordTable":
        """Those whose onset a recording has, at that time."""
        known = np.array([i in onsets for i in self.index.tolist()], bool)
        found = self.take(np.flatnonzero(known))
        return replace(found, start=np.array([onsets[i] for i in found.index.tolist()]))


def read_words(path: Path) -> WordTable:
    """Words of a transcript or of a table of sub-tokens.

    Raises:
        BadInput: A column is missing or a time is none.
    """
    rows = read_table(path)
    text = column(rows, "word", where=path)
    start = numbers(column(rows, "start", "onset", where=path), path, "start")
    has_end = bool(rows) and any(name in rows[0] for name in ("end", "offset"))
    end = numbers(column(rows, "end", "offset"), path, "end") if has_end else start
    if rows and "word_idx" in rows[0]:
        index = word_numbers(rows, path)
    else:
        index = np.arange(len(rows))
    found, first, of = np.unique(index, return_index=True, return_inverse=True)
    ends = np.full(len(found), -np.inf)
    np.maximum.at(ends, of, end)
    starts = np.full(len(found), np.inf)
    np.minimum.at(starts, of, start)
    table = WordTable(found, [text[row] for row in first], starts, ends)
    return table.take(np.argsort(table.start, kind="stable"))


def numbers(texts: Sequence[str], path: Path, name: str) -> np.ndarray:
    """A column as floats. Raises BadInput that names the line."""
    try:
        found = np.array([float(text) for text in texts])
    except ValueError:
        line = next(i for i, text in enumerate(texts, 2) if not _is_number(text))
        raise BadInput(f"{path}: line {line}: {name} is {texts[line - 2]!r}; give s") from None
    if not np.isfinite(found).all():
        line = int(np.flatnonzero(~np.isfinite(found))[0]) + 2
        raise BadInput(f"{path}: line {line}: {name} is no number; take the row out")
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def word_numbers(rows: list[dict[str, str]], path: Path) -> np.ndarray:
    """The column word_idx, (rows,) int."""
    found = numbers(column(rows, "word_idx", where=path), path, "word_idx")
    return found.astype(int)


def word_vectors(features: Path, key: str, tokens: Path | None) -> dict[int, np.ndarray]:
    """Word number -> the mean of its sub-tokens' rows, float32.

    Args:
        features: .hdf5 with a dataset `key` (rows, dims), or .npy.
        key: Name of the dataset, such as layer-24 or vectors.
        tokens: Table with word_idx of each row; None = a row for each word, in order.
    Raises:
        BadInput: It is not there, or has another number of rows than the table.
    """
    if features.suffix == ".npy":
        values = np.load(features, mmap_mode="r", allow_pickle=False)
    else:
        with open_hdf5(features) as file:
            if key not in file:
                known = ", ".join(sorted(file)[:8])
                raise BadInput(f"{features}: no dataset {key!r}; there are: {known}")
            values = file[key][()]
    values = np.asarray(values, np.float32)
    values = values[:, None] if values.ndim == 1 else values
    index = np.arange(len(values))
    if tokens is not None:
        rows = read_table(tokens)
        has = bool(rows) and "word_idx" in rows[0]
        index = word_numbers(rows, tokens) if has else np.arange(len(rows))
        if len(index) != len(values):
            raise BadInput(
                f"{features}: {key} has {len(values)} rows, {tokens} {len(index)}; expected one "
                "for each sub-token"
            )
    found, of, counts = np.unique(index, return_inverse=True, return_counts=True)
    sums = np.zeros((len(found), values.shape[1]))
    np.add.at(sums, of, values)
    means = (sums / counts[:, None]).astype(np.float32)
    return dict(zip(found.tolist(), means, strict=True))


def read_glove(path: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    """Word -> its vector, of a GloVe text file; those that are wanted alone, in small letters.

    Raises:
        BadInput: A line has another number of values than the first one.
    """
    found, dims = {}, 0
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            word, *values = line.rstrip().split(" ")
            if number == 1 and len(values) == 1:
                continue  # a head: words, dims
            dims = dims or len(values)
            if len(values) != dims:
                raise BadInput(f"{path}: line {number} has {len(values)} values, expected {dims}")
            if word in wanted:
                found[word] = np.array(values, np.float32)
    return found
