"""A search whose runs are a task's own (`Base.kind` is an import path), on this machine's Ray."""

from collections.abc import Callable
from pathlib import Path

from ndt3_dist.cluster.search.base import Base
from ndt3_dist.cluster.search.driver import Search
from ndt3_dist.cluster.search.record import Record, Trial
from ndt3_dist.cluster.search.space import Space


def run_search(
    base: Base,
    space: Space,
    out: Path,
    at_once: int,
    gpus: float,
    threads: int,
    say: Callable[[Search, Trial], None],
) -> list[Trial]:
    """Run what is left of a search of a task's own program; one that is over is only read.

    Args:
        out: Folder of the search, new or of the same one.
        at_once: Trials at the same time.
        gpus: Of each, or a fraction.
        threads: Of each.
        say: Told of each trial that is over.
    """
    asked = {**space.model_dump(mode="json"), "config": base.values}
    with Record(out.absolute(), asked) as record:
        search = Search(base, space, record, None, False, threads)
        if sum(bool(t.ended) for t in record.trials) < space.trials:
            from ndt3_dist.cluster.search import tuning

            with tuning.tune_ray("local", at_once) as pool:
                tuning.search(search, at_once, gpus, pool.folder, lambda t: say(search, t))
        return [*record.trials]
