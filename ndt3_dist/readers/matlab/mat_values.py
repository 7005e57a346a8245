"""Values of a MATLAB file: what size they may have, how they are found, what a field must hold."""

from typing import Any

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.clocks import EDGE, even_clock, slack, stored_error

MOST_VALUES = 1_000_000
"""Cells and arrays that one file may hold; each takes a fraction of a ms."""
MOST_DEPTH = 32


class Foreign:
    """What a file may hold and nothing here can use; whoever asks for it is told its kind."""

    def __init__(self, kind: str):
        self.kind = kind


class MatFile:
    """What both versions share: `mat["a.b"]` and `mat.get("a.b")`."""

    def __getitem__(self, field: str) -> Any:
        """A field's value; one of a struct array is the object array of its elements' values."""
        raise NotImplementedError

    def close(self) -> None:
        """End reading."""

    def get(self, field: str) -> Any:
        """A field's value, or None where there is none."""
        try:
            return self[field]
        except MissingField:
            return None


class MissingField(BadInput):
    """A field that is not there."""


def missing(field: str, where: str, known) -> MissingField:
    """Says what there is instead."""
    have = ", ".join(sorted(known)[:20]) or "nothing"
    return MissingField(f"has no field {field}: {where or 'the file'} has {have}")


def dig(value: Any, parts: list[str], field: str, where: str) -> Any:
    """Follow the rest of a dotted name into a value."""
    for number, part in enumerate(parts):
        if isinstance(value, np.ndarray) and value.dtype == object and value.size:
            inner = [dig(v, parts[number:], field, where) for v in value.flat]
            return objects(inner, value.shape)
        if not isinstance(value, dict) or part not in value:
            raise missing(field, where, value if isinstance(value, dict) else ())
        value, where = value[part], f"{where}.{part}"
    return value


def objects(values: list, shape: tuple[int, ...]) -> np.ndarray:
    """An object array of values in C order; numpy would take equal arrays for one array."""
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        array[i] = value
    return array.reshape(shape)


def element(field: str, at: tuple[int, ...]) -> str:
    """MATLAB's name of a cell: spikes{3,1}."""
    return f"{field}{{{','.join(str(i + 1) for i in at)}}}"


def vector(value: Any, field: str) -> np.ndarray:
    """A field's numbers in one dimension, float64; an empty array gives an empty vector."""
    value = _numbers(value, field)
    if value.size and value.size != max(value.shape):
        raise BadInput(f"{field} has shape {value.shape}; expected a vector")
    return value.reshape(-1).astype(np.float64)


def matrix(value: Any, field: str) -> np.ndarray:
    """A field's numbers in two dimensions, of the type that they have."""
    value = _numbers(value, field)
    if value.ndim != 2:
        raise BadInput(f"{field} has shape {value.shape}; expected two dimensions")
    return value


def text(value: Any, field: str) -> str:
    """A field's string, the same in all elements of a struct array; a number such as 3 is one."""
    if isinstance(value, np.ndarray) and value.dtype == object and value.size:
        each = {text(v, field) for v in value.flat}
        if len(each) > 1:
            raise BadInput(f"{field} has {len(each)} values; expected one")  # they may be names
        return each.pop()
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and value.size == 1:
        value = f"{value.item():.15g}"
    if not isinstance(value, str) or not value.strip():
        raise BadInput(f"{field} is {_described(value)}; expected a string")
    return value.strip()


def cells(value: Any, field: str) -> np.ndarray:
    """A field's cell or struct array, as it is."""
    if not isinstance(value, np.ndarray) or value.dtype != object:
        raise BadInput(f"{field} is {_described(value)}; expected a cell array")
    return value


def train(value: Any, field: str) -> np.ndarray:
    """Spike times of one unit: sorted and finite, or BadInput."""
    times = vector(value, field)
    if not np.isfinite(times).all():
        raise BadInput(f"{field} has {int((~np.isfinite(times)).sum())} spike times that are NaN")
    back = np.flatnonzero(np.diff(times) < 0)
    if len(back):
        raise BadInput(
            f"{field} has unsorted spike times ({times[back[0]]:.4f} before "
            f"{times[back[0] + 1]:.4f}); sort them in the file"
        )
    return times


def counts(value: Any, field: str, along: str = "rows", any_shape: bool = False) -> np.ndarray:
    """Counts of spikes as (bins, channels): whole, not negative, of an integer type."""
    found = matrix(value, field)
    found = found if along == "rows" else found.T
    if found.shape[1] > found.shape[0] and not any_shape:
        raise BadInput(
            f"{field} has {found.shape[0]} bins of {found.shape[1]} channels; expected more bins "
            "than channels: are its axes the other way round?"
        )
    if not found.size:
        raise BadInput(f"{field} is empty")
    # NaN fails both comparisons.
    if not (found.min() >= 0 and found.max() < 2**31) or (np.mod(found, 1) != 0).any():
        raise BadInput(f"{field} has counts that are negative, NaN or no whole numbers")
    return found.astype(np.int32) if found.dtype.kind == "f" else found


def clock(
    value: Any, field: str, unit_s: float = 1.0, advice: str = "correct the file"
) -> tuple[np.ndarray, float]:
    """Times of samples in s: two or more, strictly ascending and finite, or BadInput; and what the
    distance of one from another time of the file may be off by (`clocks.stored_error`).

    An even clock whose times were rounded (to ms or float32, say) is made even again, so that
    samples do not slip over the edge of a bin.

    Args:
        unit_s: Of its times.
        advice: What to do where they do not ascend.
    """
    times = vector(value, field)
    error = stored_error(times)
    if len(times) > 2 and error > EDGE * (times[-1] - times[0]) / len(times):
        even = even_clock(times, error)
        if even:
            return even.times * unit_s, even.error * unit_s
    if len(times) < 2 or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise BadInput(f"{field}: {len(times)} times are not strictly ascending; {advice}")
    period = (times[-1] - times[0]) / (len(times) - 1)
    steps = np.arange(len(times))
    allowed = min(2 * np.abs(times[0] + steps * period - times).max() + EXACT, ROUNDED * period)
    for digits in range(1, 10):  # the shortest number that explains the times
        even = times[0] + steps * float(f"{period:.{digits}g}")
        if np.abs(even - times).max() <= allowed:
            return even * unit_s, error * unit_s
    return times * unit_s, error * unit_s


EXACT = 1e-9
"""Seconds by which exact times may be off."""
ROUNDED = 0.05
"""Share of a sample period by which times may be off an even clock that was rounded."""


def _numbers(value: Any, field: str) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "buif":
        raise BadInput(f"{field} is {_described(value)}; expected an array of numbers")
    return value


def _described(value: Any) -> str:
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    if isinstance(value, dict):
        return "a struct"
    if isinstance(value, Foreign):
        return f"of MATLAB's kind {value.kind}"
    kind = "a cell or struct array" if value.dtype == object else f"an array of {value.dtype}"
    return f"{kind} of shape {value.shape}"


def velocity(times: np.ndarray, values: np.ndarray, max_gap_s: float, error_s: float = 0.0):
    """Rate of change from each sample to the next.

    It is stamped with the first of the two and so looks ahead by one sample; its mean over a bin is
    how far the value went within that bin.

    Args:
        times: Ascending, in s, (samples,).
        values: (samples, dims).
        max_gap_s: Across longer gaps it is NaN.
        error_s: What the distance of two times may be off by.
    Returns:
        Times (samples - 1,) and rates per s (samples - 1, dims).
    """
    step = np.diff(times)
    rates = np.diff(values, axis=0) / step[:, None]
    rates[step > max_gap_s + slack(error_s, float(np.median(step)))] = np.nan
    return times[:-1], rates
