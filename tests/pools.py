"""A pool that stands in for `job.workers`: it runs tasks by a function, and starts nothing."""


def pool_of(run_all) -> type:
    """A class in place of `workers` whose block gives `run_all`."""

    class Pool:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return run_all

        def __exit__(self, *_):
            pass

    return Pool
