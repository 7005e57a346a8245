"""What ends a rank against all expectation: kept in RUN/faults/, told in one line."""

import time
import traceback
from pathlib import Path

from ndt3_dist import storage
from ndt3_dist.errors import RankFailed

LOST = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited", "NCCL")
"""What torch says where another rank is gone."""


def fault(run: Path, rank: int, error: Exception) -> RankFailed:
    """Write an error of a rank to RUN/faults/ and say it in a line.

    Args:
        run: Folder of the run.
        rank: That met it.
        error: As it was raised.
    Returns:
        To be raised in its place.
    """
    file = run / "faults" / f"{time.strftime('%Y%m%d-%H%M%S')}-rank{rank:05d}.txt"
    said = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    if any(sign in str(error) for sign in LOST):
        said = "lost another rank; what that one met is told by itself or in the same folder"
    try:
        text = "".join(traceback.format_exception(error))
        storage.write_bytes(file, text.encode())
    except OSError as e:
        return RankFailed(f"rank {rank}: {said} ({file} cannot be written: {e})")
    return RankFailed(f"rank {rank}: {said}; the whole of it: {file}")
