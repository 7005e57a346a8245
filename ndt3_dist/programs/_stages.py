"""Programs of this package as processes of their own, for programs that call several."""

import contextlib
import os
import subprocess
import sys
import time

import psutil

from ndt3_dist import log
from ndt3_dist.errors import Ndt3DistError


def program(name: str) -> list[str]:
    """The command of a program, from any folder, in a checkout or installed."""
    return [sys.executable, "-m", f"ndt3_dist.programs.{name}"]


def launched(name: str, ranks: int) -> list[str]:
    """The command of a program on several processes.

    The launcher is this interpreter's: it works without the environment being activated.
    """
    launcher = [
        sys.executable,
        "-m",
        "deepspeed.launcher.runner",
        "-q",
        "--num_accelerators",
        str(ranks),
    ]
    return [*launcher, "--module", f"ndt3_dist.programs.{name}"]


def stage(name: str, *commands: list[str], kill_when=None) -> None:
    """Run programs of the project side by side, output shown; Ndt3DistError where one fails."""
    began = time.perf_counter()
    log.say(f"\n== {name}")
    one_thread = {"OMP_NUM_THREADS": "1"} if len(commands) > 1 else {}
    running = [subprocess.Popen(command, env={**os.environ, **one_thread}) for command in commands]
    try:
        while None in [process.poll() for process in running]:
            if kill_when and kill_when():
                kill_all(running)
                return
            time.sleep(0.2)
    except BaseException:
        kill_all(running)
        raise
    for process in running:
        if process.returncode:
            code = process.returncode
            raise Ndt3DistError(f"stage {name} failed with exit code {code}, see above")
    if kill_when:
        raise Ndt3DistError(f"stage {name} ended before it could be killed")
    log.say(f"== {name}: {time.perf_counter() - began:.0f} s")


def kill_all(running: list[subprocess.Popen]) -> None:
    """SIGKILL processes and all that they started."""
    for process in running:
        kill_tree(process.pid)
        process.wait()


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all that it started."""
    try:
        parent = psutil.Process(pid)
        family = [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
