"""Packed micro-batches of fixed shapes: for compiled steps, which are made for shapes.

What is added counts nowhere: its tokens are segments of their own behind the windows, its contents
enter no slot, and its targets cost nothing.
"""

from dataclasses import dataclass

import numpy as np

from ndt3_dist.errors import BadInput

CONTENT = {
    "spike_slot": ("spikes", "spike_channels", "spike_hidden"),
    "covariate_slot": ("covariates", "covariate_valid", "covariate_blank"),
    "constraint_slot": ("constraint",),
    "return_slot": ("returns",),
    "identity_slot": ("identity",),
}
"""Slots of each modality and what lies beside them (`PackedTokens`)."""
SEGMENTS = 64
"""Of which the number of segments is made a multiple."""


@dataclass(frozen=True)
class Sizes:
    """What a micro-batch is padded to.

    Attributes:
        tokens: Slots.
        segments: Windows and the segments behind them.
        longest: Tokens of a segment at most.
        contents: Tokens of each modality, by the name of its slots.
    """

    tokens: int
    segments: int
    longest: int
    contents: dict[str, int]

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray], row_tokens: int) -> "Sizes":
        """Sizes that hardly ever change: a pure function of the micro-batch, as its results are.

        Full rows are as many tokens each time and no window is longer than a row. How many windows
        and tokens of each modality a micro-batch holds is not known before the data: those are
        rounded up, segments to a multiple of 64 and modalities to one of an eighth of a row.
        """
        lengths, part = np.diff(arrays["cu_seqlens"]), max(row_tokens // 8, 1)
        tokens = multiple(int(lengths.sum()), row_tokens)
        longest = max(row_tokens, int(lengths.max()))
        contents = {slots: multiple(len(arrays[slots]), part) for slots in CONTENT}
        return cls(tokens, multiple(len(lengths) + 1, SEGMENTS), longest, contents)


def multiple(number: int, of: int) -> int:
    """The lowest that is not below."""
    return -(-number // of) * of


def padded(arrays: dict[str, np.ndarray], sizes: Sizes) -> dict[str, np.ndarray]:
    """A packed micro-batch of these sizes.

    Returns:
        Arrays named as in `PackedTokens`, with the number of real `windows` and `longest`.
    Raises:
        BadInput: It is larger than they are.
    """
    borders, windows = arrays["cu_seqlens"], len(arrays["cu_seqlens"]) - 1
    end = int(borders[-1])
    # The pad as segments of the longest length, then empty ones.
    behind = np.minimum(
        end + sizes.longest * np.arange(1, sizes.segments - windows + 1), sizes.tokens
    )
    last = int(behind[-1]) if len(behind) else end
    found = {"tokens": end, "segments": windows, "longest": int(np.diff(borders).max())}
    found |= {slots: len(arrays[slots]) for slots in CONTENT}
    most = {"tokens": sizes.tokens, "segments": sizes.segments, "longest": sizes.longest}
    over = [f"{k} {n} of {m}" for k, n in found.items() if n > (m := (most | sizes.contents)[k])]
    if over or last < sizes.tokens:
        raise BadInput(
            f"a micro-batch to be padded to {sizes} has {', '.join(over) or f'{windows} windows'}: "
            "more than that holds; pad it to larger sizes"
        )
    out = {
        **arrays,
        "cu_seqlens": np.concatenate([borders, behind]).astype(borders.dtype),
        "time": lengthened(arrays["time"], sizes.tokens),
        "space": lengthened(arrays["space"], sizes.tokens),
        "windows": np.array(windows),
        "longest": np.array(sizes.longest),
    }
    for slots, names in CONTENT.items():
        # Their slot is the last: what is there enters none.
        out[slots] = lengthened(arrays[slots], sizes.contents[slots], sizes.tokens - 1)
        for name in names:
            value = {"covariate_blank": 1, "identity": -1}.get(name, 0)
            out[name] = lengthened(arrays[name], sizes.contents[slots], value)
    return out


def lengthened(x: np.ndarray, length: int, value: float = 0) -> np.ndarray:
    """An array with rows of a value behind its own."""
    more = np.full((length - len(x), *x.shape[1:]), value, x.dtype)
    return np.concatenate([x, more])
