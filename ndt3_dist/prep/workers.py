"""Who does the tasks of a preparation: this process, a Ray of our own, or a cluster.

A Ray takes five seconds to start and end, in which this process prepares hours of recordings.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ndt3_dist import log
from ndt3_dist.errors import BadInput
from ndt3_dist.prep.pool import RunAll, ray_pool
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.recordings import RecordingFile

SMALL_BYTES = 16_000_000
"""Recordings of fewer bytes together are prepared in this process, where nothing else is said."""
LEAST_BYTES = 1_000_000
"""What a recording counts at least: many small ones are work, too."""


def with_address(recipe: Recipe) -> Recipe:
    """The recipe with the address that it runs at: local, or that of a cluster.

    As in Ray's own programs, RAY_ADDRESS names the cluster where the recipe says nothing.

    Raises:
        BadInput: RAY_ADDRESS is no cluster's.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if recipe.ray_address or named in ("", "local"):
        return recipe.model_copy(update={"ray_address": recipe.ray_address or "local"})
    if recipe.num_workers != "auto":
        log.say(
            f"RAY_ADDRESS {named} is left aside: num_workers={recipe.num_workers} is of this "
            "machine; ray_address=auto takes that cluster"
        )
        return recipe.model_copy(update={"ray_address": "local"})
    if "://" in named:
        raise BadInput(
            f"RAY_ADDRESS {named}: expected HOST:PORT of a cluster's head; a URL is for `ray job "
            "submit` or Ray's client: submit this command there, or say ray_address=local to "
            "prepare on this machine"
        )
    log.say(f"on the cluster of RAY_ADDRESS, {named}; ray_address=local prepares on this machine")
    return recipe.model_copy(update={"ray_address": named})


def workers(recipe: Recipe, sources: Sequence[RecordingFile]) -> "ray_pool | own_process":
    """What runs the tasks of recordings; entering it gives `run_all`."""
    if recipe.ray_address in ("", "local"):
        if recipe.num_workers == 0:
            return own_process()
        counted = sum(max(source.bytes, LEAST_BYTES) for source in sources)
        if recipe.num_workers == "auto" and counted < SMALL_BYTES:
            log.say("small recordings: in this process; num_workers=N has N workers do it")
            return own_process()
    return ray_pool(recipe, len(sources))


class own_process:
    """In the place of a `ray_pool`: tasks run here, one after the other.

    SIGTERM ends the block as an error does, with the exit code that Ray gives it.
    """

    def __enter__(self) -> RunAll:
        self.before = None
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        return run_here

    def __exit__(self, *_) -> None:
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)


def run_here(
    task: Callable, arguments: list[tuple], shared: tuple = ()
) -> Iterator[tuple[int, Any]]:
    """`run_all` of this process."""
    for number, args in enumerate(arguments):
        try:
            result = task(*args, *shared)
        except Exception as e:
            result = e
        yield number, result
