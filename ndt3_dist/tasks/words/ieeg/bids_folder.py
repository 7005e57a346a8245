"""A BIDS folder of iEEG as OpenNeuro has it: its tables, and which channels of a file to take.

Tables are read as text: a byte-order mark is no part of the first column's name, and `n/a` is no
value. Nothing outside of the folder is opened: names in tables never become paths.
"""

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ndt3_dist.errors import BadInput

MARKS = "participants.tsv", "dataset_description.json"
"""Files that the top of a BIDS folder has."""


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a .csv or .tsv by column; a column without a name is that of row numbers.

    Raises:
        BadInput: It is not there, not text, or has rows of other lengths than its head.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as e:
        raise BadInput(f"{path}: no such table; download it, or name another one") from e
    except UnicodeDecodeError as e:
        raise BadInput(f"{path}: not UTF-8 text ({e}); save it as UTF-8") from e
    comma = "\t" if path.suffix == ".tsv" else ","
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=comma) if row]
    if not rows:
        raise BadInput(f"{path}: empty; expected a line of column names")
    head = [name.strip() for name in rows[0]]
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(head):
            raise BadInput(f"{path}: line {number} has {len(row)} columns, its head {len(head)}")
    return [dict(zip(head, (cell.strip() for cell in row), strict=True)) for row in rows[1:]]


def column(rows: list[dict[str, str]], *names: str, where: object = "") -> list[str]:
    """Values of the first of these columns that there is. Raises BadInput."""
    for name in names:
        if rows and name in rows[0]:
            return [row[name] for row in rows]
    known = ", ".join(rows[0]) if rows else "no rows"
    raise BadInput(f"{where}: no column {' or '.join(names)}; there are: {known}")


def root_of(path: Path, told: str = "") -> Path | None:
    """The top of the BIDS folder that a recording lies in; None where there is none."""
    if told:
        if not Path(told).is_dir():
            raise BadInput(f"options.root {told}: no such folder; expected the top of the BIDS one")
        return Path(told)
    for folder in path.absolute().parents:
        if any((folder / mark).is_file() for mark in MARKS):
            return folder
    return None


def subject_of(path: Path) -> str:
    """01 of sub-01_task-podcast_ieeg.edf. Raises BadInput."""
    found = re.match(r"sub-([A-Za-z0-9]+)_", path.name)
    if not found:
        raise BadInput(f"{path.name}: no BIDS name; expected sub-LABEL_task-NAME_..._ieeg.fif")
    return found[1]


@dataclass(frozen=True)
class Channels:
    """What tables say of a recording's channels.

    Attributes:
        bad: Names of those whose status is bad.
        places: Name -> x, y, z in mm.
    """

    bad: frozenset[str]
    places: dict[str, tuple[float, float, float]]


def read_channels(root: Path | None, subject: str) -> tuple[Channels, list[str]]:
    """Channels of a subject, and what is to be said where a table is missing."""
    if root is None:
        return Channels(frozenset(), {}), ["is in no BIDS folder: no channel is known to be bad"]
    folder, said, bad, places = root / f"sub-{subject}" / "ieeg", [], set(), {}
    tables = sorted(folder.glob(f"sub-{subject}_*channels.tsv"))
    for table in tables:
        rows = read_table(table)
        if rows and "status" in rows[0]:
            names = column(rows, "name", where=table)
            bad |= {n for n, row in zip(names, rows, strict=True) if row["status"] == "bad"}
    if not tables:
        said.append(f"has no channels.tsv in {folder.name} of sub-{subject}: no channel is bad")
    for table in sorted(folder.glob(f"sub-{subject}_*electrodes.tsv")):
        rows = read_table(table)
        for row in rows if rows and {"name", "x", "y", "z"} <= rows[0].keys() else []:
            place = tuple(_number(row[axis]) for axis in "xyz")
            if np.isfinite(place).all():
                places[row["name"]] = place
    return Channels(frozenset(bad), places), said


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def electrode_list(path: Path, subject: str, root: Path | None) -> list[str]:
    """Electrodes of a subject by a list with columns subject and elec.

    Subjects there are those of BIDS (1, 01, sub-01), or else ids that participants.tsv has in a
    column of its own, such as nyu_id.
    """
    rows = read_table(path)
    told, names = column(rows, "subject", where=path), column(rows, "elec", "name", where=path)
    mine = {label(subject)}
    if root and (root / MARKS[0]).is_file():
        people = read_table(root / MARKS[0])
        for person in people:
            if label(person.get("participant_id", "")) == label(subject):
                mine |= {label(v) for k, v in person.items() if k.endswith("_id")}
    return [name for who, name in zip(told, names, strict=True) if label(who) in mine]


def label(subject: object) -> str:
    """1 of sub-01, 01 or 1: one writing of all of them."""
    return str(subject).strip().removeprefix("sub-").lstrip("0") or "0"


def chosen(
    names: list[str],
    channels: Channels,
    regex: str = "",
    electrodes: list[str] | None = None,
    drop_bad: bool = True,
) -> list[str]:
    """Which channels to take, in the order of the file.

    Args:
        regex: That the beginning of a name matches; "" = any.
        electrodes: Names to take; None = any.
    Raises:
        BadInput: None is left, or the list names one that the file does not have.
    """
    if electrodes is not None and (lost := sorted({*electrodes} - {*names})):
        raise BadInput(
            f"has no channel {', '.join(lost[:5])} of {len(lost)} in the electrode list; there "
            f"are {', '.join(names[:8])}, ..."
        )
    try:
        pattern = re.compile(regex)
    except re.error as e:
        raise BadInput(f"channel regex {regex!r}: {e}") from e
    wanted = None if electrodes is None else {*electrodes}
    found = [
        name
        for name in names
        if (wanted is None or name in wanted)
        and pattern.match(name)
        and not (drop_bad and name in channels.bad)
    ]
    if not found:
        raise BadInput(
            f"none of its {len(names)} channels is left: {len(channels.bad)} are bad, regex is "
            f"{regex!r}, the electrode list has {'all' if wanted is None else len(wanted)}"
        )
    return found
