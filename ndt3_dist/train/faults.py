"""What ends a rank against all expectation: kept in RUN/faults/, told in one line."""

import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from ndt3_dist import storage
from ndt3_dist.errors import Ndt3DistError, RankFailed

FOLDER = "faults"
LOST = ("closed by peer", "reset by peer", "remote process exited")
"""What torch says where another rank is gone."""
RECORDERS = "_dump_nccl_trace_json", "_dump_fr_trace_json"
"""What torch has to tell the last collectives of NCCL and of gloo as JSON; private, and sought."""
WRITE_S = 10.0
"""Time that a rank that hangs has to write: its disk may be what hangs."""


def fault(run: str | Path, rank: int, error: Exception) -> RankFailed:
    """Write an error of a rank to RUN/faults/ and say it in a line.

    Args:
        rank: That met it.
        error: As it was raised.
    Returns:
        To be raised in its place.
    """
    file = file_of(run, rank, ".txt")
    said = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
    if any(sign in str(error) for sign in LOST):
        said = f"lost another rank, which says why itself or in the same folder ({said})"
    try:
        storage.write_bytes(file, "".join(traceback.format_exception(error)).encode())
    except (OSError, Ndt3DistError) as e:
        return RankFailed(f"rank {rank}: {said} ({file} cannot be written: {e})")
    return RankFailed(f"rank {rank}: {said}; the whole of it: {file}")


def file_of(run: str | Path, rank: int, kind: str) -> str:
    """A file of this moment and rank in RUN/faults/."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-rank{rank:05d}{kind}"
    return storage.join(run, FOLDER, name)


def keep_stacks(run: str | Path, rank: int, why: str) -> None:
    """Write where all threads of this process are, and its last collectives, to RUN/faults/.

    Returns after `WRITE_S` at the latest, written or not.
    """

    def write() -> None:
        for kind, text in (("-stacks.txt", stacks(why)), ("-collectives.json", collectives())):
            if text:
                storage.write_bytes(file_of(run, rank, kind), text)

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    writing.join(WRITE_S)


def stacks(why: str) -> bytes:
    """The stack of each thread by its name, the outermost call first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = [f"{why}\n"]
    for number, frame in sys._current_frames().items():
        text = "".join(traceback.format_stack(frame))
        found.append(f"\nthread {names.get(number, number)}:\n{text}")
    return "".join(found).encode()


def collectives() -> bytes:
    """What torch's flight recorder has of this rank; empty where it has none."""
    of_torch: Any = sys.modules["torch._C._distributed_c10d"]
    for name in RECORDERS:
        if hasattr(of_torch, name):
            return getattr(of_torch, name)()
    return b""
