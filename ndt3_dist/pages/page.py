"""Pieces of a self-contained HTML page: no network, no script, and all text escaped."""

import html
from collections.abc import Mapping, Sequence

from ndt3_dist.pages.style import STYLE
from ndt3_dist.pages.words import Name, Number, capital, told, words

LONG = 28
"""Characters of a name that a table breaks into lines."""


def as_html(value: object) -> str:
    """Any value as text that is safe in a page."""
    text = html.escape(str(value))
    if isinstance(value, Name):
        return f'<code class="long">{text}</code>' if len(value) > LONG else f"<code>{text}</code>"
    return f'<span class="n">{text}</span>' if isinstance(value, Number) else text


def sentence(*parts: object) -> str:
    """Words, names and numbers as one line."""
    return "".join(map(as_html, parts))


def as_table(rows: Sequence[Mapping[str, object]], best: int | None = None) -> str:
    """Rows of equal keys as a table that scrolls by itself; numbers are aligned right.

    Args:
        rows: Their keys are shown in words, those that are a `Name` as they are.
        best: Row to be set in bold.
    """
    if not rows:
        return ""
    head = "".join(
        f"<th{_class(value)}>{as_html(capital(words(key)))}</th>" for key, value in rows[0].items()
    )
    best_class = ' class="best"'
    lines = [
        f"<tr{best_class * (i == best)}>"
        + "".join(f"<td{_class(v)}>{html_of_cell(v)}</td>" for v in row.values())
        + "</tr>"
        for i, row in enumerate(rows)
    ]
    body = "\n".join(lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n{body}</table></div>'


def html_of_cell(value: object) -> str:
    return html.escape(value) if isinstance(value, Number) else as_html(value)


def _class(value: object) -> str:
    return ' class="n"' if isinstance(value, Number) else ""


def as_bars(rows: Sequence[tuple[str, float, Number, bool]]) -> str:
    """Amounts beside each other, as (what, amount, the amount as it is shown, is it lost)."""
    most = max((amount for _, amount, _, _ in rows), default=0) or 1
    lines = [
        f'<tr><td>{as_html(what)}</td><td class="n">{html.escape(shown)}</td>'
        f'<td class="bar{" off" * lost}"><span style="width:{100 * amount / most:.1f}%">'
        "</span></td></tr>"
        for what, amount, shown, lost in rows
    ]
    return f'<div class="scroll"><table style="width:100%">{"".join(lines)}</table></div>'


def as_facts(values: Mapping[str, object]) -> str:
    """Single numbers with what they are, side by side."""
    if not values:
        return ""
    cards = []
    for key, value in values.items():
        what, shown = told(key, value)
        cards.append(f"<div><dt>{as_html(capital(what))}</dt><dd>{as_html(shown)}</dd></div>")
    return f'<dl class="facts">{"".join(cards)}</dl>'


def section(heading: str, *parts: str) -> str:
    """A part of a page; nothing where nothing is in it."""
    held = [part for part in parts if part]
    return "\n".join([f"<h2>{as_html(heading)}</h2>", *held]) if held else ""


def as_page(kind: str, name: str, headline: str, parts: Sequence[str]) -> bytes:
    """A whole page.

    Args:
        kind: What it is of: a run, a corpus.
        name: What that is called.
        headline: HTML of the sentence that says it all.
        parts: HTML, in order.
    """
    head = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(f'{kind} {name}')}</title>",
        f"<style>{STYLE}</style></head><body>",
        f"<header><p>{sentence(kind, ' ', Name(name))}</p><h1>{headline}</h1></header>",
    ]
    return "\n".join([*head, *(p for p in parts if p), "</body></html>\n"]).encode()
