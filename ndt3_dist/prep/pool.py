"""A Ray to run tasks on: one of our own on the loopback address, or a cluster that runs already."""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from ndt3_dist.errors import ClusterFailed
from ndt3_dist.prep.recipe import Recipe

RunAll = Callable[..., Iterator[tuple[int, Any]]]
MOST_PENDING = 1000
"""Tasks that Ray knows of at once: enough to make a cluster grow, few enough to be waited for."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    # GPUs are none of preparation's business; this silences Ray's notice about it.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
LOCAL = {
    # Without this Ray takes the address of a network card, and listens on all of them.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
CLUSTER = {
    # A host that is cut off says no goodbye: ask it. Ray itself does after 5 minutes, and waits 2.
    "RAY_grpc_client_keepalive_time_ms": "20000",
    "RAY_grpc_client_keepalive_timeout_ms": "20000",
}


def answers(address: str) -> None:
    """Raises OSError or ValueError where nothing listens; Ray would try for many minutes."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    if address != "auto":
        host, _, port = address.rpartition(":")
        if "://" in address or not host or not port.isdigit():
            raise ValueError(f"{address} is not HOST:PORT")
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


class ray_pool:
    """A Ray to run tasks on; ours ends with the block.

    Entering gives `run_all(task, argument_tuples, shared)`, which yields (number, result or
    exception) as tasks end; `shared` are last arguments of all of them, sent to each host once.
    Tasks of workers and hosts that are lost are repeated, three times each.

    Raises:
        ClusterFailed: A cluster cannot be reached, or lost the hosts of one task again and again.
    """

    def __init__(self, recipe: Recipe, tasks: int):
        self.address = recipe.ray_address
        self.workers = recipe.num_workers or min(os.cpu_count() or 1, max(tasks, 1))

    def __enter__(self) -> RunAll:
        for key, value in {**SETTINGS, **(LOCAL if self.address == "local" else CLUSTER)}.items():
            os.environ.setdefault(key, value)
        import ray
        from ray.exceptions import RayError

        self.ray = ray
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address == "local":
            ray.init("local", num_cpus=self.workers, include_dashboard=False, **quiet)
            return self._run_all
        try:
            answers(self.address)
            ray.init(self.address, **quiet)
        except (OSError, RuntimeError, ValueError, RayError) as e:
            lines = [line for line in str(e).splitlines() if line.strip()] or [type(e).__name__]
            raise ClusterFailed(
                f"ray_address {self.address}: no cluster to be had there ({lines[-1]}); give "
                "HOST:PORT of its head on one of its hosts, with the same versions of Ray and "
                "Python, and RAY_AUTH_MODE=token where it has a token"
            ) from e
        return self._run_all

    def _run_all(
        self, task: Callable, arguments: list[tuple], shared: tuple = ()
    ) -> Iterator[tuple[int, Any]]:
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

        ray = self.ray
        remote = ray.remote(num_cpus=1, max_retries=3)(task)
        same = [ray.put(value) for value in shared]
        waiting, pending = iter(enumerate(arguments)), {}
        while True:
            for number, args in islice(waiting, MOST_PENDING - len(pending)):
                pending[remote.remote(*args, *same)] = number
            if not pending:
                return
            done, _ = ray.wait(list(pending), num_returns=1)
            for ref in done:
                number = pending.pop(ref)
                try:
                    result = ray.get(ref)
                except RayTaskError as e:
                    result = e.cause
                except (OutOfMemoryError, WorkerCrashedError) as e:
                    result = e  # each time again: it may be the task
                except RayError as e:
                    raise ClusterFailed(
                        f"Ray lost a task and gave it up ({' '.join(str(e).split())[:300]}); run "
                        "the same command again, what is finished is kept"
                    ) from e
                yield number, result

    def __exit__(self, *_) -> None:
        self.ray.shutdown()
