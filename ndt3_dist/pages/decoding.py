"""What decoders made of a session: the part of a run's page with scores and traces."""

import math
import re

import numpy as np

from ndt3_dist.pages.chart import Series, as_chart, as_charts
from ndt3_dist.pages.page import as_table, section, sentence
from ndt3_dist.pages.style import COLOURS
from ndt3_dist.pages.words import NONE, R2, Name, Number, count, number, plural, score

BASELINE = "ridge"
"""The decoder that `evaluate` puts beside those it is given."""
SECONDS = 10.0
"""Of each trace."""
FOLLOWED = 2
"""Decoders in one chart."""
NAMED = 3
"""Covariates that a sentence names."""


def stretch(result: dict, seconds: float) -> tuple[slice, np.ndarray]:
    """Bins from the middle of the scored part, and their times in seconds."""
    bin_s, known = result["bin_ms"] / 1000, len(result["truth"])
    bins = min(known, int(seconds / bin_s))
    start = (known - bins) // 2
    return slice(start, start + bins), np.arange(start, start + bins) * bin_s


def best_decoder(scores: dict[str, dict]) -> str:
    """The name of the best one that is not the baseline, among several that of their mean too."""
    own = {n: s["r2"] for n, s in scores.items() if n != BASELINE and math.isfinite(s["r2"])}
    return max(own, key=own.__getitem__, default="")


def decoded(dims: list[str]) -> list[object]:
    """What is decoded, in words.

    Args:
        dims: Names with units.
    """
    if all(re.search(r"\([a-z]+/s\)$", dim) for dim in dims):
        return ["velocity"]
    if len(dims) > NAMED:
        return ["all ", count(len(dims)), " covariates"]
    return [Name(", ".join(dims))]


def far(distance: float, *what: object) -> list[object]:
    """How far above or below something a score is."""
    if abs(distance) < 5e-4:
        return ["as good as ", *what]
    return [score(abs(distance)), " above " if distance > 0 else " below ", *what]


def meaning(evaluation: dict, best_possible: float | None) -> list[object]:
    """What R2 is, on which bins it was taken, which decoder is best, and how good that is.

    Args:
        evaluation: What `evaluate.session.evaluate` returned.
        best_possible: R2 that no decoder can exceed; None = it is not known.
    Returns:
        Parts of one sentence; none where no score is a number.
    """
    scores = {n: s["r2"] for n, s in evaluation["scores"].items() if math.isfinite(s["r2"])}
    if not scores:
        return []
    best = max(scores, key=scores.__getitem__)
    called = {BASELINE: "the ridge", "mean": "the mean of the models"}
    unseen = "a decoder may have seen" if evaluation.get("seen") else "no decoder saw"
    said = [f"{R2} is the share of the variance of ", *decoded(evaluation["dims"])]
    said += [" that is explained on ", count(evaluation["scores"][best]["bins"]), " bins of "]
    said += [
        Name(evaluation["session"]),
        f" that {unseen} (1 = perfect, 0 = no better than their mean): ",
    ]
    said += [called.get(best, Name(best)), " is best with ", score(scores[best])]
    other = BASELINE if best != BASELINE else best_decoder(evaluation["scores"])
    compared = []
    if other in scores:
        compared.append(far(scores[best] - scores[other], called.get(other, Name(other))))
    if best_possible is not None:
        apart = scores[best] - best_possible
        compared.append(far(apart, "the best possible (", score(best_possible), ")"))
    for joint, parts in zip((", ", " and "), compared, strict=False):
        said += [joint, *parts]
    return said


def verdict(evaluation: dict, seen: str) -> str:
    """The best decoder beside the baseline, as HTML; "" where no score is a number.

    Args:
        evaluation: What `evaluate.session.evaluate` returned.
        seen: HTML of how long it was trained.
    """
    scores = evaluation["scores"]
    best = best_decoder(scores)
    if not best:
        return ""
    beside, baseline = "", scores.get(BASELINE, {}).get("r2", math.nan)
    if math.isfinite(baseline):
        found = far(scores[best]["r2"] - baseline, f"the {BASELINE}")
        beside = sentence(": " if isinstance(found[0], Number) else ", ", *found)
    own = sentence(f"{R2} ", score(scores[best]["r2"]), " by ", Name(best))
    return " ".join(filter(None, [own, seen])) + beside


def score_rows(evaluation: dict, best_possible: float | None = None) -> list[dict]:
    """One row a decoder: all that it was scored by, and its R2 of each dimension.

    The last is of the best possible, where that is known.
    """
    scores, dims = evaluation["scores"], evaluation["dims"]
    keys = list(dict.fromkeys(k for s in scores.values() for k in s))
    of_dims = {k for s in scores.values() for k, v in s.items() if isinstance(v, list)}
    rows = []
    for name, found in scores.items():
        row: dict[str, object] = {"decoder": Name(name)}
        for key in keys:
            value = found.get(key)
            if key not in of_dims:
                row[key] = count(value) if key == "bins" else score(value)
            elif len(dims) > 1:
                each = value if value and len(value) == len(dims) else [None] * len(dims)
                row |= {Name(dim): score(v) for dim, v in zip(dims, each, strict=True)}
        rows.append(row)
    if best_possible is not None and rows:
        rows.append({key: Number(NONE) for key in rows[0]})
        rows[-1] |= {"decoder": "best possible", "r2": score(best_possible)}
    return rows


def trace_charts(evaluation: dict, seconds: float = SECONDS) -> str:
    """True covariates and what decoders made of them, a stretch from the middle.

    Of more decoders than an eye can follow, the best one and the baseline.
    """
    part, time = stretch(evaluation, seconds)
    shown = evaluation["predictions"]
    if len(shown) > FOLLOWED:
        kept = best_decoder(evaluation["scores"]), BASELINE
        shown = {name: p for name, p in shown.items() if name in kept} or shown
    charts = []
    for d, dim in enumerate(evaluation["dims"]):
        lines = [Series(time, evaluation["truth"][part, d], "true", 0)]
        for i, (name, predicted) in enumerate(shown.items()):
            lines.append(Series(time, predicted[part, d], Name(name), i % COLOURS + 1, "thin"))
        charts.append(as_chart(Name(dim), lines, "time in the scored part, s", wide=True))
    return as_charts(*charts)


def decoding_section(evaluation: dict, best_possible: float | None = None) -> str:
    """Scores and traces of one session."""
    rows = score_rows(evaluation, best_possible)
    best = best_decoder(evaluation["scores"])
    context = evaluation.get("context")
    seen: list[object] = []
    if context:
        window = Number(f"{context * evaluation['bin_ms'] / 1000:g} s")
        seen = [", each from ", window, " before it"]
    bin_ms = Number(f"{evaluation['bin_ms']:g} ms")
    told = sentence("Bins of ", bin_ms, " of ", Name(evaluation["session"]), *seen, ". ")
    told += f"{R2} is weighted by the variance of the dimensions."
    if "history" in evaluation:
        told += sentence(" The ridge sees ", plural(count(evaluation["history"]), "bin"))
        told += sentence(" of history, its penalty is ", number(evaluation["penalty"]), ".")
    warnings = [f"<p>{sentence(line)}.</p>" for line in evaluation.get("seen", ())]
    names = [row["decoder"] for row in rows]
    return section(
        "Decoding",
        f'<p class="note">{told}</p>',
        *warnings,
        as_table(rows, names.index(best) if best else None),
        trace_charts(evaluation),
    )
