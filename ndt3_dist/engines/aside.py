"""What DeepSpeed prints goes aside, so that a run's own lines are what a user sees."""

import contextlib
import io
import logging
import sys
from collections.abc import Iterator

from ndt3_dist import storage

SAID = io.StringIO()
"""All of it, for the run's logs."""


@contextlib.contextmanager
def aside(shown: bool = False) -> Iterator[None]:
    """A block whose prints, and DeepSpeed's log, are kept in SAID; `shown` lets them through.

    DeepSpeed is imported before, and not in it: what is made there would write to SAID for ever.
    An exception shows what was printed before it.
    """
    if shown:
        yield
        return
    began = SAID.tell()
    log = logging.getLogger("DeepSpeed")
    handlers = [h for h in log.handlers if isinstance(h, logging.StreamHandler)]
    before = [h.setStream(SAID) for h in handlers]
    try:
        with contextlib.redirect_stdout(SAID), contextlib.redirect_stderr(SAID):
            yield
    except Exception:
        sys.stderr.write(SAID.getvalue()[began:])
        raise
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            if stream:  # None where it was SAID already
                handler.setStream(stream)


def keep_said(path: str) -> None:
    """Write all that went aside to a file; none where nothing did."""
    if SAID.getvalue():
        storage.write_bytes(path, SAID.getvalue().encode())
