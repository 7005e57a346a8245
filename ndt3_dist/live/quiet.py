"""What keeps a process from pausing at a bad moment: its cores, its threads, its garbage.

Threads that wait for each other at the end of a product spin before they sleep. Where another
process has one of their cores that keeps the core from what they wait for, so they sleep at once
(docs/LOG.md). Python's collector of garbage is off; what it would find is collected while nothing
waits.
"""

import gc
import os

from ndt3_dist.errors import BadInput

SPIN = {"GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""Rounds and ms that threads of GNU's and of Intel's OpenMP spin; what a user has set holds."""
SWEEP_EVERY = 1000
"""Bins between two collections."""


def parse_cores(text: str) -> set[int]:
    """Numbers of cores from text such as 2,3; empty text = all that this process has.

    Raises:
        BadInput: They are no numbers, or this process may not run there.
    """
    allowed = os.sched_getaffinity(0)
    if not text:
        return allowed
    parts = text.split(",")
    if not all(p.isascii() and p.isdigit() and len(p) < 6 for p in parts):
        raise BadInput(f"--cores {text}: expected numbers of cores, such as 2,3")
    cores = {int(p) for p in parts}
    if not cores <= allowed:
        raise BadInput(f"--cores {text}: this process may use {_list(allowed)}")
    return cores


def pin(cores: str, threads: int) -> None:
    """Keep this process to cores, and what torch computes to so many threads.

    Before torch is imported, whose threads read the environment then.

    Args:
        cores: As in `parse_cores`.
        threads: 0 = one for each core, or what OMP_NUM_THREADS says.
    """
    chosen = parse_cores(cores)
    if not 0 <= threads <= len(chosen):
        raise BadInput(
            f"--threads {threads}: expected at most one for each of {len(chosen)} cores, or 0"
        )
    if cores:
        os.sched_setaffinity(0, chosen)
    for name, value in SPIN.items():
        os.environ.setdefault(name, value)
    if threads:
        import torch

        torch.set_num_threads(threads)


def described() -> str:
    """Threads, cores and spinning of this process, in words."""
    import torch

    number = torch.get_num_threads()
    return (
        f"{number} thread{'s' * (number > 1)} on cores {_list(os.sched_getaffinity(0))}, "
        f"spinning GOMP_SPINCOUNT={os.environ.get('GOMP_SPINCOUNT', 'as it comes')}"
    )


def settle() -> None:
    """Leave what is there alone for ever, and collect no garbage but in `sweep`."""
    gc.collect()
    gc.freeze()
    gc.disable()


def sweep(bins: int) -> None:
    """Collect garbage if it is time after so many bins; where nothing waits."""
    if bins and bins % SWEEP_EVERY == 0:
        gc.collect()


def _list(cores: set[int]) -> str:
    return ",".join(map(str, sorted(cores)))
