"""A file of lines that grows under another process, read from where the last reading ended.

On a disk a look is a `stat`, in a store a HEAD; only what is new is read, by a range. A run that
goes on from an earlier step cuts its metrics.jsonl and writes other lines from there: the last line
that was read is read again each time, and where it is another one, the last that both have is
sought among marks, a few short reads.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndt3_dist import remote, storage
from ndt3_dist.errors import StoreFailed

MOST = 2 << 20
"""Bytes of one reading, which takes less than a tenth of a second."""
LONGEST = 1 << 20
"""Bytes of a line; a longer one is damage."""
MARK_EVERY = 64
"""Lines between two marks."""
ATTEMPTS = 2
"""At each request to a store: whoever polls comes again anyway."""


@dataclass(frozen=True)
class Look:
    """What a glance at a file tells.

    Attributes:
        size: Bytes.
        tag: Another one whenever the file has changed.
        modified: Seconds since 1970, by the clock of whoever keeps it; 0 where it does not say.
    """

    size: int
    tag: str
    modified: float


def look(path: str) -> Look | None:
    """A glance at a file; None where there is none. Raises StoreFailed, PermissionError."""
    if storage.is_remote(path):
        return _look_away(path)
    try:
        found = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    tag = f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"
    return Look(found.st_size, tag, found.st_mtime)


def _look_away(path: str) -> Look | None:
    def ask() -> dict[str, Any] | None:
        try:
            return remote.filesystem(path).info(path)  # pyright: ignore[reportReturnType]
        except FileNotFoundError:
            return None

    found = remote.with_retries(path, "looked at", ask, ATTEMPTS)
    if found is None or found.get("type") == "directory":
        return None
    modified = found.get("LastModified") or found.get("last_modified") or found.get("mtime") or 0
    seconds = modified if isinstance(modified, int | float) else modified.timestamp()
    size = int(found.get("size") or 0)
    return Look(size, f"{found.get('ETag', '')}-{modified}-{size}", float(seconds))


def read(path: str, start: int, size: int) -> bytes:
    """So many bytes from one on, fewer where the file ends before."""
    if size <= 0:
        return b""
    if storage.is_remote(path):
        return remote.read_range(path, start, start + size, ATTEMPTS)
    return storage.read_range(path, start, size).tobytes()


@dataclass
class News:
    """What a reading brought.

    Attributes:
        kept: Of the lines read before, so many still stand; None = all.
        lines: New ones, whole, without their ends; None in place of one that is too long.
        left: Bytes that are there and not read yet.
    """

    kept: int | None
    lines: list[bytes | None]
    left: int


@dataclass(frozen=True)
class Mark:
    """A line that was read: how many lines end with it, where it ends, its bytes and hash."""

    lines: int
    end: int
    size: int
    hash: str


def mark(lines: int, end: int, line: bytes) -> Mark:
    return Mark(lines, end, len(line), storage.fast_hash(line))


START = mark(0, 0, b"")


class GrowingFile:
    """The lines of a file, as they come.

    Attributes:
        last: The last line that was read.
        marks: Of lines before it, in order, the start of the file first.
        seen: What the last look told; None = there was no file.
    """

    def __init__(self, path: str):
        self.path = path
        self.seen: Look | None = None
        self.last, self.marks = START, [START]
        self._done = ""  # the tag at which all was read

    def more(self, most: int = MOST) -> News:
        """Read on.

        Args:
            most: Bytes to read at most, or those of the longest line.
        Raises:
            StoreFailed, OSError: It cannot be read now; the next call goes on from the same place.
        """
        most = max(most, LONGEST + 1)
        now = self.seen = look(self.path)
        if now is None:
            kept = 0 if self.last.lines else None
            self.last, self.marks, self._done = START, [START], ""
            return News(kept, [], 0)
        if now.tag == self._done:
            return News(None, [], 0)
        kept = None
        data = self._behind(self.last, now.size, most)
        if data is None:
            self._go_back(now.size)
            kept = self.last.lines
            data = self._behind(self.last, now.size, most)
            if data is None:
                raise StoreFailed(f"{self.path}: it changes while it is read; looked at again soon")
        start = self.last.end
        lines = self._split(data)
        left = now.size - self.last.end
        if start + len(data) >= now.size:  # the rest is a line that has not come to its end
            left, self._done = 0, now.tag
        return News(kept, lines, left)

    def _behind(self, mark: Mark, size: int, most: int) -> bytes | None:
        """What follows a line; None where that line is not there any more."""
        if size < mark.end:
            return None
        data = read(self.path, mark.end - mark.size, min(most, size - mark.end) + mark.size)
        if storage.fast_hash(data[: mark.size]) != mark.hash:
            return None
        return data[mark.size :]

    def _go_back(self, size: int) -> None:
        """Take the last mark whose line still stands: what follows one that does not, changed."""
        low, high = 0, len(self.marks) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._behind(self.marks[middle], size, 0) is None:
                high = middle - 1
            else:
                low = middle
        self.marks = self.marks[: low + 1]
        self.last = self.marks[-1]

    def _split(self, data: bytes) -> list[bytes | None]:
        """The whole lines of what follows the last one; goes behind them."""
        *lines, rest = data.split(b"\n")
        found: list[bytes | None] = list(lines)
        number, end, last = self.last.lines, self.last.end, b""
        for line in lines:
            number, end, last = number + 1, end + len(line) + 1, line
            if number % MARK_EVERY == 0:
                self.marks.append(mark(number, end, line + b"\n"))
        if lines:
            self.last = mark(number, end, last + b"\n")
        if len(rest) > LONGEST:  # no metrics: passed over in pieces, each told as a line
            self.last = mark(number + 1, end + len(rest), rest)
            found.append(None)
        return found
