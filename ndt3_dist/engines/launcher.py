"""The launcher that started the ranks, as they see it: `deepspeed`, `torchrun` or another.

What it was told stands in its command line. A hostfile that it did not find is refused: it would
only warn, and train on this host alone. Its port is the same for every run on a host; where nobody
named one to `deepspeed`, rank 0 listens on a free one and tells the other ranks.
"""

import contextlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from ndt3_dist import storage
from ndt3_dist.engines.command import launchers, told_launcher
from ndt3_dist.errors import BadInput, RankFailed

JOIN_WITHIN = timedelta(minutes=30)
"""Time that all ranks have to join the job."""
SAME = {
    "LOCAL_SIZE": "LOCAL_WORLD_SIZE",
    "CROSS_RANK": "GROUP_RANK",
    "CROSS_SIZE": "GROUP_WORLD_SIZE",
}
"""Ranks of this host, its number and that of all hosts: the names of deepspeed and of torchrun."""


def deepspeed_names() -> None:
    """Let the variables of torchrun also have the names that deepspeed gives them."""
    for name, theirs in SAME.items():
        if theirs in os.environ:
            os.environ.setdefault(name, os.environ[theirs])


def check_launch(ranks: int, min_ranks: int = 0) -> None:
    """Refuse a start that is not the one that was meant.

    Args:
        ranks: That there must be; 0 = any number.
        min_ranks: Fewest that will do instead; 0 = no fewer than `ranks`.
    Raises:
        BadInput: The launcher did not find its hostfile, or there are other ranks.
    """
    told = told_launcher()
    if told and told.hostfile and not (Path(told.folder) / told.hostfile).is_file():
        raise BadInput(
            f"--hostfile {told.hostfile}: no such file, so deepspeed would train on this host "
            "alone; give the path of a file with a line `HOST slots=N` a host, or no --hostfile"
        )
    check_ranks(ranks, int(os.environ.get("WORLD_SIZE", "1")), min_ranks)


def check_ranks(ranks: int, found: int, min_ranks: int = 0) -> None:
    """Refuse other ranks than `train.ranks` and `train.min_ranks` say (0 = any number)."""
    fewest = min_ranks or ranks
    if found < fewest or (ranks and found > ranks):
        bounds = [f"train.min_ranks is {min_ranks}"] if min_ranks else []
        bounds = [f"train.ranks is {ranks}"] * (ranks > 0) + bounds
        raise BadInput(
            f"{' and '.join(bounds)}, {found} {'was' if found == 1 else 'were'} launched; see "
            "--hostfile and --num_accelerators of deepspeed, or set train.ranks (0: any number)"
        )


@contextlib.contextmanager
def port_of_job() -> Iterator[None]:
    """A context to join the job in; MASTER_PORT is its own where nobody named one.

    Raises:
        BadInput: The port is taken.
    """
    try:
        with _free_port():
            yield
    except dist.DistNetworkError as e:
        if "EADDRINUSE" not in str(e):
            raise
        raise BadInput(
            f"port {os.environ['MASTER_PORT']} of this host is taken, as by another run; give this "
            "one a port of its own: deepspeed --master_port PORT, torchrun --master-port PORT"
        ) from e


@contextlib.contextmanager
def _free_port() -> Iterator[None]:
    """Listen on a port that is free, where none was named; the first rank tells the others."""
    note = None
    if "MASTER_PORT" in os.environ and (note := _note()) is None:
        yield
        return
    if os.environ["RANK"] != "0":
        assert note
        os.environ["MASTER_PORT"] = _wait_for(note)
        yield
        return
    # What joins the job in this process takes up this very server: nobody else gets its port.
    address = os.environ["MASTER_ADDR"]
    server: Any = TCPStore(address, 0, None, True, wait_for_workers=False, multi_tenant=True)
    os.environ["MASTER_PORT"] = str(server.port)
    try:
        if note:
            storage.write_bytes(note, os.environ["MASTER_PORT"].encode())
        yield  # until all ranks have joined
    finally:
        if note:
            note.unlink(missing_ok=True)


def _note() -> Path | None:
    """The file in which ranks of this host find their port; None where one is as it must be.

    Its name is that of the process that started them all, for no other run.
    """
    told = told_launcher()
    if told is None or told.master_port or os.environ.get("CROSS_SIZE") != "1":
        return None
    pid = launchers()[0].pid
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None  # not on Linux
    return _private_folder() / f"{os.uname().nodename}-{pid}-{started}"


def _private_folder() -> Path:
    """A folder for temporary files that no other user can have put anything into."""
    folder = Path(tempfile.gettempdir()) / f"ndt3_dist-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise BadInput(
            f"{folder}: not a folder of yours alone (owner {found.st_uid}, mode "
            f"{stat.S_IMODE(found.st_mode):o}); remove it, or name a port: deepspeed "
            "--master_port PORT"
        )
    return folder


def _wait_for(note: Path) -> str:
    """The port in a note that rank 0 writes."""
    deadline = time.monotonic() + JOIN_WITHIN.total_seconds()
    while not note.exists():
        if time.monotonic() > deadline:
            raise RankFailed(f"{note}: rank 0 has not said its port within {JOIN_WITHIN}")
        time.sleep(0.05)
    return note.read_text()
