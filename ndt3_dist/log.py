"""How programs speak: one error line, progress on a terminal, plain lines elsewhere."""

import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from ndt3_dist.errors import Ndt3DistError
from ndt3_dist.voice import VOICE, Step

T = TypeVar("T")
SECRETS = re.compile(
    r"(\w://)(?:[^\s/@'\"]*@)?([^\s?'\"]*)(?:\?[^\s'\")]*=[^\s'\")]*[^\s'\"):,;])?"
)
"""Password and query of a URL: the latter may hold a signature that opens a store to anybody."""


def without_secrets(text: str) -> str:
    """A text with nothing in its URLs that must not be kept or shown."""
    return SECRETS.sub(r"\1\2", text)


def is_first_rank() -> bool:
    """Whether this process is rank 0 of its job (a single process is)."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str = "") -> None:
    """Print a line from rank 0 only, at once."""
    if is_first_rank():
        VOICE.write(without_secrets(message), sys.stdout)


def note(message: str) -> None:
    """`say` to standard error, where the output may be data."""
    if is_first_rank():
        VOICE.write(without_secrets(message), sys.stderr)


def warn(message: str) -> None:
    """Print a warning to standard error from rank 0 only."""
    note(f"warning: {message}")


@contextmanager
def counting(
    label: str, total: int | None = None, before: int = 0, unit: str = ""
) -> Iterator[Step]:
    """A block whose Step counts what is done: a bar on a terminal, plain lines elsewhere.

    Only rank 0 shows it, and only where its main thread is in the block; all on standard error.

    Args:
        label: What is done.
        total: Of how many, if that is known.
        before: So many are done already.
        unit: Of both: B for bytes, else a word.
    """
    step = Step(without_secrets(label), total, before, unit)
    if not is_first_rank() or threading.current_thread() is not threading.main_thread():
        yield step
        return
    VOICE.begin(step)
    try:
        yield step
    finally:
        VOICE.end(step)


@contextmanager
def waiting(label: str) -> Iterator[None]:
    """A block that cannot be counted; after two seconds it is said, then every ten, with the
    seconds so far."""
    with counting(label):
        yield


def progress(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """The items, while it is shown how many were taken, as `counting` does."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    with counting(label, total) as step:
        for item in items:
            yield item
            step.add()


def progress_bytes(pieces: Iterable[bytes], label: str, total: int) -> Iterator[bytes]:
    """`progress` of pieces of a file of `total` bytes."""
    with counting(label, total, unit="B") as step:
        for piece in pieces:
            yield piece
            step.add(len(piece))


@contextmanager
def rank_0_first():
    """For checks that fail alike on every rank: rank 0 says the error first."""
    try:
        yield
    except (Ndt3DistError, FileNotFoundError, PermissionError):
        if not is_first_rank():
            # A launcher ends all ranks when one has left: rank 0 speaks first, and where it had
            # no error this one is heard after all. On a busy host an end takes seconds.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(20)
        raise


def run_program(
    main: Callable[[], int | None], after_error: Callable[[], None] | None = None
) -> None:
    """Run a program's `main` and exit: 0, what it returned, or 1 after one `error:` line.

    Only the project's own errors and what a system says of a file are shortened to a line; any
    other exception is a defect and shows its traceback. NDT3_TRACEBACK=1 shows all of them.
    """
    try:
        code = main() or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        code = 130
    except (Ndt3DistError, OSError) as e:
        known = Ndt3DistError | FileNotFoundError | PermissionError
        if not isinstance(e, known) and getattr(e, "filename", None) is None:
            raise
        if os.environ.get("NDT3_TRACEBACK"):
            traceback.print_exc()
        message = str(e)
        if isinstance(e, OSError) and e.filename is not None:
            message = f"{e.filename}: {e.strerror}"
        line = without_secrets(" ".join(message.split()))
        print(f"error: {line}", file=sys.stderr, flush=True)
        if after_error:
            after_error()
        code = 1
    sys.stdout.flush()
    sys.exit(code)
