"""Every colour can be read on its paper."""

import re

import pytest

from ndt3_dist.pages.style import COLOURS, DARK, LIGHT


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb (WCAG 2)."""
    digits = colour if len(colour) == 6 else "".join(2 * d for d in colour)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_lines_stand_out_from_the_paper(scheme):
    colours = {n: luminance(c) for n, c in re.findall(r"--(\w+): #([0-9a-f]+)", scheme)}
    for name, least in [("ink", 7), ("soft", 4.5), ("warn", 4.5)] + [
        (f"c{n}", 4.0) for n in range(COLOURS + 1)
    ]:
        for paper in ("paper", "card"):
            dim, bright = sorted((colours[name], colours[paper]))
            assert (bright + 0.05) / (dim + 0.05) >= least, (name, paper)
    assert set(colours) == set(re.findall(r"--(\w+): #", LIGHT))
