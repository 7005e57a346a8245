"""The command above this process: `deepspeed`, which is a runner and on each host a launcher of its
ranks, or `torchrun`, which is one on each host.

What it was told stands in its command line.
"""

import argparse
import contextlib
import os
import signal
import time
from pathlib import Path

NAMES = "deepspeed", "deepspeed.pt", "ds"
"""Of the command, as a user types it."""
RUNNER = "deepspeed.launcher.runner"
LAUNCHER = "deepspeed.launcher"
TORCHRUN = "torch.distributed.run"
"""What they are called where they are run as modules."""


def launchers() -> list:
    """The processes above this one that belong to its launcher, the nearest first."""
    try:
        import psutil
    except ImportError:  # not where weights are only fine-tuned: no launcher starts that
        return []
    found = []
    for process in psutil.Process().parents():
        try:
            command = process.cmdline()[:5]
        except psutil.Error:
            break  # another user's
        program = any(Path(part).name in (*NAMES, "torchrun") for part in command[:2])
        if program or any(part.startswith((LAUNCHER, TORCHRUN)) for part in command):
            found.append(process)
    return found


def told_launcher() -> argparse.Namespace | None:
    """What the `deepspeed` command above this process was told; None where there is none above.

    Returns:
        hostfile and master_port, None where they were not named; folder, which it runs in.
    """
    import psutil

    told = argparse.ArgumentParser(add_help=False)
    told.add_argument("-H", "--hostfile")
    told.add_argument("--master_port")
    for process in launchers():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if any(word == RUNNER or Path(word).name in NAMES for word in words[:5]):
                found = argparse.Namespace(folder=process.cwd())
                return told.parse_known_args(words, found)[0]
    return None


def end_launcher() -> None:
    """End the other ranks of this host, after this one has said its error.

    The launcher would do so by itself, and print the whole command of a rank below that error.
    `torchrun` does not, and names the rank in a table.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return
    for launcher in launchers()[:1]:
        with contextlib.suppress(OSError, IndexError, ValueError):
            caught = Path(f"/proc/{launcher.pid}/status").read_text().split("SigCgt:")[1].split()[0]
            if int(caught, 16) >> signal.SIGTERM - 1 & 1:  # else it would not end as failed
                os.kill(launcher.pid, signal.SIGTERM)


def wait_for_runner(seconds: float) -> None:
    """Wait until the command has ended, as it does at Ctrl-C with a traceback; no longer than that.

    What is said after it is the last that a user reads.
    """
    runner, deadline = launchers()[-1:], time.monotonic() + seconds
    while runner and time.monotonic() < deadline:
        if not is_alive(runner[0]):
            time.sleep(0.1)
            return
        time.sleep(0.02)


def is_alive(process) -> bool:
    """Whether a process (psutil's) runs; one that ended and was not waited for does not."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
