"""The network of each parcel, from a small table of the user's: nothing is downloaded.

A table is text, a line for each parcel in the order of the parcels: Schaefer's own lookup table
(`1 7Networks_LH_Vis_1 120 18 131 0`), the labels alone, or names of networks in the last column.
"""

import re
from pathlib import Path

from ndt3_dist.errors import BadInput

LABEL = re.compile(r"(?:7|17)Networks_[LR]H_([A-Za-z]+)")
HEADS = "network", "label", "name", "roi"


def read_networks(path: str | Path, parcels: int = 0) -> list[str]:
    """The network of each parcel, in their order.

    Args:
        parcels: How many are expected; 0 = any number.
    Raises:
        BadInput: The table has another number of parcels, or a line has no network.
    """
    found = []
    try:
        lines = Path(path).read_text().splitlines()
    except UnicodeDecodeError as e:
        raise BadInput(f"{path}: not a text table ({e}); one line a parcel is expected") from e
    for number, line in enumerate(lines, 1):
        cells = [c.strip() for c in re.split(r"[\t, ]+", line.strip()) if c.strip()]
        if not cells or (number == 1 and cells[-1].lower() in HEADS):
            continue
        label = LABEL.search(line)
        if (
            not label
            and (len(cells) > 1 or re.fullmatch(r"[\d.]+", cells[0]))
            and (not re.fullmatch(r"[A-Za-z]\w*", cells[-1]))
        ):
            raise BadInput(f"{path}: line {number} has no network: {line[:60]!r}")
        if label and label[1] == "Background":
            continue
        found.append(label[1] if label else cells[-1])
    if not found or (parcels and len(found) != parcels):
        raise BadInput(f"{path}: {len(found)} parcels, expected {parcels or 'some'}, one a line")
    return found
