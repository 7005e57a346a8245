"""Who and what a window is of, as learned tokens: names, their rows in a model's table, new rows.

A row belongs to a name KIND:NAME, whose place in `model.identities` it is; names are only ever
added at the end. A subject is one of its dataset, an array one of its subject, and a task is its
dataset: that is what a corpus says of it.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.model.model_config import ModelConfig

if TYPE_CHECKING:  # an export loads without the corpus's code, a stream's process without torch
    import torch

    from ndt3_dist.shards.manifest import Session

TABLE = "identity_in.weight"
"""The parameter that holds the rows."""


def names_of(session: "Session", context: Sequence[str]) -> list[str]:
    """Names of a session's identities, in the order of their tokens."""
    if not context:
        return []
    subject = f"{session.dataset}/{session.subject}"
    names = {
        "session": [session.id],
        "subject": [subject],
        "array": [f"{subject}/{array.name}" for array in session.arrays],
        "task": [session.dataset],
    }
    return [f"{kind}:{name}" for kind in context for name in names[kind]]


def count_of(session: "Session", context: Sequence[str]) -> int:
    """Identity tokens of a window of a session."""
    return sum(len(session.arrays) if kind == "array" else 1 for kind in context)


def rows_of(names: Sequence[str], config: ModelConfig, session: str) -> np.ndarray:
    """Rows of some names, (names,) int64. Raises BadInput for one that the model does not know."""
    rows = {name: row for row, name in enumerate(config.identities)}
    if unknown := [name for name in names if name not in rows]:
        kind = unknown[0].partition(":")[0]
        known = sum(name.startswith(f"{kind}:") for name in rows)
        raise BadInput(
            f"session {session}: the model has learned no {unknown[0]} (of {known} of that kind); "
            "fit it to the session first (launch/finetune.py)"
        )
    return np.array([rows[name] for name in names], np.int64)


def knowing(config: ModelConfig, sessions: Iterable["Session"]) -> ModelConfig:
    """A config that knows the identities of some sessions, too."""
    if not config.context:
        return config
    names = dict.fromkeys(config.identities)
    for session in sessions:
        names |= dict.fromkeys(names_of(session, config.context))
    return config.model_copy(update={"identities": tuple(names)})


def grown(table: "torch.Tensor", before: Sequence[str], after: Sequence[str]) -> "torch.Tensor":
    """A table with rows for names behind those that it has: each the mean of its kind.

    Args:
        table: (names before, dim).
        before, after: `model.identities`; `after` begins with `before`.
    Returns:
        (names after, dim); where it has no row of a kind, a new one is the mean of all.
    """
    import torch

    assert tuple(after[: len(before)]) == tuple(before)
    rows = [table]
    for name in after[len(before) :]:
        kind = name.partition(":")[0] + ":"
        alike = [row for row, known in enumerate(before) if known.startswith(kind)]
        rows.append((table[alike] if alike else table).mean(0, keepdim=True))
    return torch.cat(rows)
