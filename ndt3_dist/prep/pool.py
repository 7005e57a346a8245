"""A Ray to run tasks on: one of our own on the loopback address, or a cluster that runs already."""

import logging
import os
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from ndt3_dist import log
from ndt3_dist.errors import ClusterFailed
from ndt3_dist.prep.recipe import Recipe

RunAll = Callable[..., Iterator[tuple[int, Any]]]
LONGEST_PLACE = 23
"""Bytes of the path of a place for Ray: its sockets have 107, of which it takes 64, we 20."""
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


def check_loopback() -> None:
    """Raises OSError where this machine cannot talk to itself; Ray would try for many minutes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=10).close()


def own_folder() -> str:
    """A new folder for Ray's sockets and logs, with a short path, for this user alone.

    Raises:
        OSError: There is no place for it.
    """
    for place in (os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp"):
        if place and len(os.fsencode(place)) <= LONGEST_PLACE and os.access(place, os.W_OK):
            return tempfile.mkdtemp(prefix="ndt3_ray_", dir=place)
    raise OSError(
        f"no folder for its sockets: TMPDIR is {tempfile.gettempdir()}, and nothing can be written "
        f"to /tmp; set RAY_TMPDIR to a folder whose path has {LONGEST_PLACE} bytes at most"
    )


def in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


class any_ray:
    """A Ray in a block, which entering gives; one of our own ends with it.

    Raises:
        ClusterFailed: Ray is not there or does not start, or a cluster cannot be reached.
    """

    EXTRA, INSTEAD = "prep", "num_workers=0 prepares in this process without it"
    """What brings Ray, and what there is instead of it."""

    def __init__(self, address: str, workers: int):
        """
        Args:
            address: Of a cluster; local = one of our own.
            workers: Of our own Ray.
        """
        self.address, self.workers, self.folder = address, workers, ""

    def __enter__(self) -> Any:
        for key, value in {**SETTINGS, **(LOCAL if self.address == "local" else CLUSTER)}.items():
            os.environ.setdefault(key, value)
        began = time.perf_counter()
        where = f"with {self.workers} workers" if self.address == "local" else f"at {self.address}"
        log.say(f"starting Ray {where} ...")
        try:
            with log.waiting("loading Ray"):
                import ray
        except ImportError as e:
            raise ClusterFailed(
                f"Ray cannot be imported ({in_a_line(e)}); pip install 'ndt3_dist[{self.EXTRA}]'"
                f"{self.INSTEAD and '; ' + self.INSTEAD}"
            ) from e
        self.ray = ray
        try:
            with log.waiting("starting Ray"):
                self._start()
        except BaseException as e:
            self.__exit__()
            if not isinstance(e, Exception):
                raise
            raise ClusterFailed(self._advice(e)) from e  # Ray raises plain Exception, too
        log.say(f"Ray runs after {time.perf_counter() - began:.1f} s")
        return ray

    def _start(self) -> None:
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        if self.address == "local":
            check_loopback()
            self.folder = own_folder()
            settings |= {"num_cpus": self.workers, "include_dashboard": False}
            settings |= {"_temp_dir": f"{self.folder}/r"}  # Ray lets everybody into that one
        else:
            answers(self.address)
        self.ray.init(self.address, **settings)

    def _advice(self, error: Exception) -> str:
        if self.address != "local":
            return (
                f"ray_address {self.address}: no cluster to be had there ({in_a_line(error)}); "
                "give HOST:PORT of its head on one of its hosts, with the same versions of Ray and "
                "Python, and RAY_AUTH_MODE=token where it has a token"
            )
        files, processes = (
            resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)
        )
        limits = f"{processes if processes >= 0 else 'any number of'} processes, {files} open files"
        return (
            f"Ray did not start ({in_a_line(error)}); it needs the address 127.0.0.1, a /dev/shm "
            f"that can be written, processes and files (allowed here: {limits})"
            f"{self.INSTEAD and '; ' + self.INSTEAD}"
        )

    def run_all(
        self, task: Callable, arguments: list[tuple], shared: tuple = (), gpus: float = 0
    ) -> Iterator[tuple[int, Any]]:
        """Run a task on each tuple of arguments; yields (number, result or exception) as they end.

        Args:
            shared: Last arguments of all of them, sent to each host once.
            gpus: Of each task, or a fraction.
        Raises:
            ClusterFailed: The hosts of one task were lost again and again.
        """
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

        ray = self.ray
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(task)
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
                        f"Ray lost a task and gave it up ({in_a_line(e)}); run "
                        "the same command again, what is finished is kept"
                    ) from e
                yield number, result

    def __exit__(self, *_) -> None:
        try:
            with log.waiting("ending Ray"):
                self.ray.shutdown()
        except Exception as e:  # what was to be done is done
            log.warn(f"Ray did not end as it should: {in_a_line(e)}")
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


class ray_pool(any_ray):
    """A Ray to run tasks on; ours ends with the block.

    Entering gives `run_all(task, argument_tuples, shared)`, which yields (number, result or
    exception) as tasks end; `shared` are last arguments of all of them, sent to each host once.
    Tasks of workers and hosts that are lost are repeated, three times each.

    Raises:
        ClusterFailed: As `any_ray`, and where a cluster lost the hosts of one task again and again.
    """

    def __init__(self, recipe: Recipe, tasks: int):
        asked = recipe.num_workers
        cores = min(os.cpu_count() or 1, max(tasks, 1))
        workers = asked if isinstance(asked, int) and asked else cores
        super().__init__(recipe.ray_address or "local", workers)

    def __enter__(self) -> RunAll:
        super().__enter__()
        return self.run_all
