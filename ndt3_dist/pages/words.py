"""Numbers and keys as a person reads them: rounded, with units, in words.

A `Number` is aligned right where it stands in a table; a `Name` is what a user or a disk calls
something, and is shown letter by letter.
"""

import math
import re

R2 = "R\u00b2"
NONE = "\u2013"
"""Shown where there is no number."""
THOUSANDS = ("", "k", "M", "G", "T")
DECIMALS = 3
"""Of a score."""
KNOWN = {
    "grad_norm": "gradient norm",
    "lr": "learning rate",
    "mfu": "share of the device's peak (MFU)",
    "resumed": "resumed from step",
    "seconds": "whole time",
    "step_s": "time of training",
    "tokens_per_s": "tokens/s",
    "val": "validation",
    "top5_accuracy": "accuracy among five",
    "wait_s": "time waited for data",
}
"""Keys that do not say by themselves what they are."""


class Number(str):
    """A figure with its unit, as it is shown."""


class Name(str):
    """A name that is not ours to change."""


def number(value: float | None, powers: tuple[str, ...] = THOUSANDS, space: str = "") -> Number:
    """Three digits that count, thousands as k, M, G, T (or other `powers`)."""
    if value is None or not math.isfinite(value):
        return Number(NONE)
    value = float(f"{value:.2e}")
    if 0 < abs(value) < 1e-3 or abs(value) >= 1000 ** len(powers):
        mantissa, power = f"{value:.1e}".split("e")
        return Number(f"{mantissa.removesuffix('.0')}e{int(power)}{space}{powers[0]}")
    fits = (p for p in range(len(powers)) if abs(value) / 1000**p < 999.5)
    power = next(fits, len(powers) - 1)
    scaled = value / 1000**power
    digits = 2 - math.floor(math.log10(abs(scaled))) if scaled else 0
    return Number(f"{scaled:.{max(digits, 0)}f}{space}{powers[power]}")


def count(value: float | None) -> Number:
    """Of things: all digits up to 9,999, three beyond."""
    if value is None or not math.isfinite(value) or abs(value) >= 1e4:
        return number(value)
    return Number(f"{round(value):,}")


def size(num_bytes: float) -> Number:
    """Of bytes."""
    return number(num_bytes, ("B", "kB", "MB", "GB", "TB", "PB"), " ")


def percent(share: float | None) -> Number:
    """Of a share: one decimal below ten."""
    if share is None or not math.isfinite(share):
        return Number(NONE)
    if 0 < share < 5e-4:
        return Number("<0.1 %")
    return Number(f"{rounded(100 * share)} %")


def duration(seconds: float | None) -> Number:
    """Of seconds: ms, s, min, h or days."""
    if seconds is None or not math.isfinite(seconds):
        return Number(NONE)
    for unit, length, most in (("ms", 1e-3, 1), ("s", 1, 100), ("min", 60, 6000), ("h", 3600, 2e5)):
        if seconds < most:
            return Number(f"{rounded(seconds / length)} {unit}")
    return Number(f"{rounded(seconds / 86400)} days")


def rounded(value: float) -> str:
    """One decimal below 10, none above."""
    return f"{value:.1f}" if 0 < abs(value) < 9.95 else f"{value:.0f}"


def plural(shown: str, one: str, many: str = "") -> str:
    """So many of something, its plural with an s or as `many`."""
    return f"{shown} {one if shown in ('1', '1.0') else many or one + 's'}"


def score(value: float | None) -> Number:
    """R2, a loss, or another number near one."""
    if value is None or not math.isfinite(value) or abs(value) >= 10:
        return number(value)
    return Number(f"{value:.{DECIMALS}f}")


def words(key: str) -> str:
    """A key of ours in words: `val_r2_uniform` without its `val_` is R2 uniform."""
    if isinstance(key, Name):
        return key
    if key in KNOWN:
        return KNOWN[key]
    text = re.sub(r"\br2\b", R2, key.replace("_", " ").strip())
    return re.sub(r" per s$", "/s", text)


def capital(text: str) -> str:
    """With a capital letter, unless it is a name."""
    return text if isinstance(text, Name) else text[:1].upper() + text[1:]


def told(key: str, value) -> tuple[str, str]:
    """A key and its value as they are shown; the unit follows from the key's end.

    Returns:
        The key in words, and a `Number`, a `Name`, or plain words.
    """
    if isinstance(value, Name | Number):
        return words(key), value
    if isinstance(value, bool):
        return words(key), "yes" if value else "no"
    if not isinstance(value, int | float | None):
        return words(key), Name(value)
    if key.endswith("seed"):
        return words(key), Name(value)
    if key == "passes" and value is not None:
        return words(key), Number(rounded(value))
    if key == "seconds" or (key.endswith("_s") and not key.endswith("_per_s")):
        return KNOWN.get(key, words(key.removesuffix("_s"))), duration(value)
    if key.endswith("_gb"):
        return words(key.removesuffix("_gb")), size((value or 0) * 1e9)
    if key in ("mfu", "hfu", "rejected") or key.endswith("_share"):
        return words(key.removesuffix("_share")), percent(value)
    if re.search(r"(^|_)(loss|r2)(_|$)", key):
        return words(key), score(value)
    whole = value is not None and float(value).is_integer()
    return words(key), count(value) if whole else number(value)
