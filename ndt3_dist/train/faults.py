"""What ends a rank against all expectation: kept in RUN/faults/, told in one line."""

import time
import traceback
from pathlib import Path

from ndt3_dist import storage
from ndt3_dist.errors import Ndt3DistError, RankFailed

FOLDER = "faults"
LOST = ("closed by peer", "reset by peer", "remote process exited")
"""What torch says where another rank is gone."""


def fault(run: str | Path, rank: int, error: Exception) -> RankFailed:
    """Write an error of a rank to RUN/faults/ and say it in a line.

    Args:
        rank: That met it.
        error: As it was raised.
    Returns:
        To be raised in its place.
    """
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-rank{rank:05d}.txt"
    file = storage.join(run, FOLDER, name)
    said = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
    if any(sign in str(error) for sign in LOST):
        said = f"lost another rank, which says why itself or in the same folder ({said})"
    try:
        storage.write_bytes(file, "".join(traceback.format_exception(error)).encode())
    except (OSError, Ndt3DistError) as e:
        return RankFailed(f"rank {rank}: {said} ({file} cannot be written: {e})")
    return RankFailed(f"rank {rank}: {said}; the whole of it: {file}")
