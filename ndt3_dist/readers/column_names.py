"""Names of the columns of covariates: the recipe's, else the file's own, else x, y, z or numbers.

x, y and z are said of what lies in space alone: a SpatialSeries of one to three columns, and a
series of two or three whose name, or that of what holds it, says position, velocity or cursor. A
single column has the name of its series; any other columns are dim0, dim1 and so on. What a name
means is left to whoever reads it: comments and descriptions are no names.
"""

import re
from collections.abc import Sequence

from ndt3_dist.errors import BadInput

SPACE = ("x", "y", "z")
MOTION = ("vel", "posit", "curs")
"""How a word of a name begins that tells of space, besides `pos` itself."""
OTHERS = ("joint", "angle", "angul", "compass", "direction", "musc", "emg", "forc", "torq")
"""How a word begins that tells of something else."""
LONGEST = 60


def column_names(
    name: str,
    dims: int,
    holder: str = "",
    spatial: bool = False,
    own: Sequence[str] = (),
    among_others: bool = False,
) -> tuple[str, ...]:
    """One name for each column of a series.

    Args:
        name: Of the series.
        dims: Its columns.
        holder: Name of what holds it.
        spatial: The file says that it is of space (NWB's SpatialSeries).
        own: The file's names of its columns; empty = none.
        among_others: Several series lie side by side; theirs are told apart by the series' name.
    """
    words = words_of(name, holder)
    other = any(w.startswith(OTHERS) for w in words)
    moves = any(w == "pos" or w.startswith(MOTION) for w in words)
    in_space = not other and dims <= len(SPACE) and (spatial or (moves and dims > 1))
    if dims == 1 and (among_others or not (own or in_space)):
        return (name,)
    names = tuple(own) or (SPACE[:dims] if in_space else tuple(f"dim{d}" for d in range(dims)))
    return tuple(f"{name}_{n}" for n in names) if among_others else names


def words_of(*names: str) -> list[str]:
    """The words that names are made of: hand and vel of handVel, and of hand_vel."""
    return [w.lower() for n in names for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", n)]


def tidy(names: Sequence[str], dims: int) -> tuple[str, ...]:
    """Names as a file has them, where they can be those of its columns; else none."""
    tidied = tuple(" ".join(n.split())[:LONGEST] for n in names)
    return tidied if len(set(tidied)) == dims == len(tidied) and all(tidied) else ()


def chosen_names(said: Sequence[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """The recipe's names of covariates, else these; BadInput where they differ in number."""
    if said and len(said) != len(names):
        raise BadInput(f"covariates.names has {len(said)} names for {len(names)} dimensions")
    return tuple(said) or names
