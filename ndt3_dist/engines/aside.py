"""What DeepSpeed prints goes aside, so that a run's own lines are what a user sees."""

import contextlib
import io
import logging
import sys
from collections.abc import Iterator

SAID = io.StringIO()
"""All of it, for the run's logs."""


@contextlib.contextmanager
def aside(shown: bool = False) -> Iterator[None]:
    """A block whose prints, and DeepSpeed's log, are kept in SAID; `shown` lets them through.

    An exception that is a defect shows what was printed before it.
    """
    if shown:
        yield
        return
    began = SAID.tell()
    handlers = [h for h in logging.getLogger("DeepSpeed").handlers if hasattr(h, "setStream")]
    before = [h.setStream(SAID) for h in handlers]  # type: ignore[attr-defined]
    try:
        with contextlib.redirect_stdout(SAID), contextlib.redirect_stderr(SAID):
            yield
    except Exception:
        sys.stderr.write(SAID.getvalue()[began:])
        raise
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            if stream is not None:
                handler.setStream(stream)  # type: ignore[attr-defined]
