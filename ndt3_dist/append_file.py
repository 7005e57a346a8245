"""A text file that grows by lines: on a disk at once, in a store whole and every now and then."""

import contextlib
import threading
import time

from ndt3_dist import log, storage
from ndt3_dist.errors import Ndt3DistError

EVERY_S = 30.0
"""Time between two uploads of a file that grows."""
SHARE = 0.05
"""At most this share of the time goes to uploads, however large the file has become."""


class AppendFile:
    """Lines of one writer: those before a `flush` are there, those of the last `EVERY_S` may be."""

    def __init__(self, path: str, kept: str):
        """
        Args:
            kept: What it holds from now on.
        Raises:
            OSError, StoreFailed: It cannot be written.
        """
        self.path = path
        storage.write_bytes(path, kept.encode())
        self._file = None if storage.is_remote(path) else open(path, "a")  # noqa: SIM115
        self._text, self._there = [kept], 1
        self._over, self._uploading = threading.Event(), threading.Lock()
        if self._file is None:
            threading.Thread(target=self._upload, daemon=True).start()

    def add(self, line: str) -> None:
        if self._file:
            self._file.write(line)
            self._file.flush()
        else:
            self._text.append(line)

    def flush(self) -> None:
        """Return when all lines are there. Raises StoreFailed."""
        if self._file:
            return
        with self._uploading:
            count = len(self._text)
            if count != self._there:
                storage.write_bytes(self.path, "".join(self._text[:count]).encode())
                self._there = count

    def close(self) -> None:
        """Raises StoreFailed."""
        self._over.set()
        self.flush()
        if self._file:
            self._file.close()

    def _upload(self) -> None:
        took = 0.0
        while not self._over.wait(max(EVERY_S, took / SHARE)):
            began = time.monotonic()
            try:
                self.flush()
                took = time.monotonic() - began
            except (OSError, Ndt3DistError) as e:
                with contextlib.suppress(ValueError):  # a closed stream at the end of a program
                    log.warn(f"{self.path}: not up to date in the store ({e}); tried again later")
