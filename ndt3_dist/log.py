"""How programs speak: one error line, progress on a terminal, plain lines elsewhere."""

import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from ndt3_dist.errors import Ndt3DistError

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
    """Print a line from rank 0 only, at once.

    A reader that has gone, as `| tee` at Ctrl-C, ends nothing: what is said to it is lost.
    """
    if is_first_rank():
        with suppress(BrokenPipeError):
            print(without_secrets(message), flush=True)


def note(message: str) -> None:
    """`say` to standard error, where the output may be data."""
    if is_first_rank():
        with suppress(BrokenPipeError):
            print(without_secrets(message), file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Print a warning to standard error from rank 0 only."""
    note(f"warning: {message}")


def progress(items: Iterable[T], label: str, total: int | None = None) -> Iterable[T]:
    """Wrap `items` in a progress bar on a terminal (rank 0); elsewhere leave them as they are."""
    if not (sys.stderr.isatty() and is_first_rank()):
        return items
    from tqdm import tqdm

    return tqdm(items, desc=label, total=total, leave=False)


def progress_bytes(pieces: Iterable[bytes], label: str, total: int) -> Iterator[bytes]:
    """`progress` of pieces of a file of `total` bytes."""
    from tqdm import tqdm

    shown = sys.stderr.isatty() and is_first_rank()
    options = {"unit": "B", "unit_scale": True, "leave": False, "disable": not shown}
    with tqdm(desc=label, total=total, **options) as bar:
        for piece in pieces:
            yield piece
            bar.update(len(piece))


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
            time.sleep(10)
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
