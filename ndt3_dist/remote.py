"""Objects of a store, by fsspec, with patience: each request is tried again while it may help.

An object appears at the end of its upload, so that what is there is whole. Most go through
`storage`; a path is a URL such as `s3://bucket/folder`.
"""

import contextlib
import errno
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ndt3_dist import log
from ndt3_dist.errors import BadInput, ManifestMismatch, StoreFailed

WHOLE_S = 600.0
"""For a request of a whole file, such as the manifest of a large corpus."""
PART_BYTES = 50 << 20
"""Of an upload in parts; what is smaller than two of them goes up in one request."""
ATTEMPTS = 8
LONGEST_WAIT_S = 30.0
LIMIT = "NDT3_STORE_WAIT_S"
"""Variable with the seconds after which a request is given up, in place of a number of tries."""

T = TypeVar("T")

_OPENED: dict[int, object] = {}
"""Every filesystem that was used, for good. A forked process has those of its parent too, with the
parent's connections: s3fs would close them where one is collected, and the parent would wait for
answers that never come. A child makes filesystems of its own (fsspec sees to that)."""


def filesystem(path: str):
    """The fsspec filesystem of a URL; s3fs is imported here and only for s3 URLs.

    It keeps no listings: other hosts write to the same places. What a store says of an object's
    checksum is left aside: some say that of the whole object where a part was asked for, and all
    that is read here bears hashes of its own.
    """
    import fsspec

    protocol = path.split("://", 1)[0]
    options = {}
    if protocol in ("s3", "s3a"):
        options["config_kwargs"] = {"response_checksum_validation": "when_required"}
    try:
        fs = fsspec.filesystem(protocol, use_listings_cache=False, **options)
    except ImportError as e:
        raise BadInput(f"{path}: reading {protocol}:// needs an extra package: {e}") from e
    except ValueError as e:
        raise BadInput(f"{path}: unknown protocol {protocol!r}; expected a path or s3://") from e
    _OPENED[id(fs)] = fs
    return fs


def with_retries(
    path: str,
    what: str,
    call: Callable[[], T],
    attempts: int | None = None,
    timeout_s: float = WHOLE_S,
    first_wait_s: float = 0.5,
) -> T:
    """What `call` returns; faults that may pass are waited out.

    Args:
        path: That the call is about.
        what: Done to it, for messages: read, written.
        attempts: Calls before it is given up, where `LIMIT` does not say; None = `ATTEMPTS`.
        timeout_s: That each call keeps, for messages.
        first_wait_s: First wait after a fault; it doubles up to `LONGEST_WAIT_S`.
    Raises:
        FileNotFoundError (names it), PermissionError, BadInput, ManifestMismatch: At once.
        StoreFailed: None of the calls was answered.
    """
    with log.waiting(f"{path}, to be {what}"):
        return _with_retries(path, what, call, attempts or ATTEMPTS, timeout_s, first_wait_s)


def _with_retries(path, what, call, attempts: int, timeout_s: float, wait: float):
    limit, began, attempt = wait_limit_s(), time.monotonic(), 0
    while True:
        attempt += 1
        try:
            return call()
        except FileNotFoundError as e:
            said = str(e.strerror or e)
            reason = "no such file" if path.split("://", 1)[1] in said else said
            raise FileNotFoundError(errno.ENOENT, reason, path) from e
        except (PermissionError, BadInput, ManifestMismatch):
            raise
        except Exception as e:  # each store and library has faults of its own
            if "Credentials" in type(e).__name__:  # botocore's; waiting brings none
                raise PermissionError(str(e)) from e
            said = log.without_secrets(" ".join(f"{type(e).__name__}: {e}".split()))
            if isinstance(e, TimeoutError):
                said = f"no whole answer in {timeout_s:g} s"
            left, over = waits(wait, attempts - attempt), attempt >= attempts
            if limit is not None:
                left = limit - (time.monotonic() - began)
                over = left <= 0
            if over:
                if attempt == 1 and limit is None:
                    raise StoreFailed(f"{path}: cannot be {what} ({said})") from e
                raise StoreFailed(
                    f"{path}: cannot be {what} after {attempt} tries ({said}); {LIMIT}=SECONDS "
                    "sets how long a store is tried"
                ) from e
            tries = f"try {attempt}" if limit is not None else f"try {attempt} of {attempts}"
            log.warn(
                f"{path}: cannot be {what} yet, {said}; again in {min(wait, left):.0f} s "
                f"({tries}, about {left:.0f} s left)"
            )
        time.sleep(wait * random.uniform(0.5, 1) if limit is None or wait < left else left)
        wait = min(2 * wait, LONGEST_WAIT_S)


def waits(wait: float, number: int) -> float:
    """Seconds of so many waits, the first of which is `wait`, at most."""
    return sum(min(wait * 2.0**n, LONGEST_WAIT_S) for n in range(number))


def wait_limit_s() -> float | None:
    """Seconds that `NDT3_STORE_WAIT_S` allows; None where it does not say. Raises BadInput."""
    text = os.environ.get(LIMIT, "")
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise BadInput(f"{LIMIT}: {text!r} is no time; expected seconds, 0 or more")
    return seconds


def read_range(
    path: str,
    start: int,
    stop: int | None,
    attempts: int | None = None,
    timeout_s: float = 30.0,
    first_wait_s: float = 0.5,
) -> bytes:
    """Bytes [start, stop) of an object, fewer where it ends before.

    Args:
        start, stop: Of the bytes; None is the end.
        attempts, first_wait_s: As `with_retries`.
        timeout_s: Of one request, however slowly bytes still arrive.
    """

    def request() -> bytes:
        fs = filesystem(path)
        if not fs.async_impl:
            return fs.cat_file(path, start, stop)
        from fsspec.asyn import sync

        return sync(  # pyright: ignore[reportReturnType]
            fs.loop, fs._cat_file, path, start=start, end=stop, timeout=timeout_s
        )

    return with_retries(path, "read", request, attempts, timeout_s, first_wait_s)


def write(path: str, pieces: Callable[[], Iterable[bytes | memoryview]]) -> int:
    """Upload an object, in parts where it is large; the parts of a failed upload are discarded.

    Args:
        pieces: Makes its bytes, anew for each attempt.
    Returns:
        Its size in bytes.
    """
    failed = []

    def upload() -> int:
        total = 0
        file = filesystem(path).open(path, "wb", block_size=PART_BYTES, autocommit=False)
        try:
            for piece in pieces():
                file.write(piece)
                total += len(piece)
            file.close()
            file.commit()
        except BaseException as e:
            file.closed = True  # what a garbage collector would else upload
            file.buffer = None
            failed.append(file)
            if _said(e) == "NoSuchUpload":  # it was completed, and the answer lost
                raise OSError("the upload is gone") from e
            raise
        return total

    try:
        return with_retries(path, "written", upload)
    finally:
        for file in failed:  # last, when the store may have come back
            with contextlib.suppress(Exception):  # the first error is the one that counts
                file.discard()


def _said(error: BaseException) -> str:
    """The code in a store's own answer, such as NoSuchUpload; "" where an error has none."""
    answer = getattr(error.__cause__, "response", None) or getattr(error, "response", None) or {}
    return answer.get("Error", {}).get("Code", "")


def put(path: str, data: bytes, check: Callable[[], None] | None = None) -> None:
    """Upload an object in one request, a large one in parts.

    Args:
        check: Called in each attempt before the object can appear, which it may refuse by raising.
    """
    if len(data) >= 2 * PART_BYTES:
        whole = memoryview(data)

        def pieces() -> Iterator[memoryview]:
            for start in range(0, len(data), PART_BYTES):
                yield whole[start : start + PART_BYTES]
            if check:  # last: the object appears when the upload is completed
                check()

        write(path, pieces)
        return

    def upload() -> None:
        if check:
            check()
        filesystem(path).pipe_file(path, data)

    with_retries(path, "written", upload)


def exists(path: str) -> bool:
    def look() -> bool:
        try:
            filesystem(path).info(path)  # exists() takes a bucket that does not answer for none
        except FileNotFoundError:
            return False
        return True

    return with_retries(path, "looked for", look)


def size(path: str) -> int:
    return with_retries(path, "looked at", lambda: filesystem(path).size(path))


def sizes(folder: str) -> dict[str, int | None]:
    """Name -> bytes of what lies directly in a folder (None for folders); empty where absent."""

    def look() -> dict[str, int | None]:
        try:
            found = filesystem(folder).ls(folder, detail=True)
        except FileNotFoundError:
            return {}
        named = {f["name"].rstrip("/").rsplit("/", 1)[-1]: f for f in found}
        own = folder.rstrip("/").rsplit("/", 1)[-1]
        return {
            name: None if f["type"] == "directory" else f["size"]
            for name, f in named.items()
            if not (name == own and f["size"] == 0 and len(named) == 1)  # a folder's marker
        }

    return with_retries(folder, "listed", look)


def walk(root: str) -> dict[str, int]:
    """Path below `root` -> bytes, of every object there; "" for `root` where it is one itself."""

    def look() -> dict[str, int]:
        info = filesystem(root).info(root)  # find() knows no single file of a web server
        if info["type"] == "file" and info.get("size") is not None:
            return {"": info["size"]}
        found = filesystem(root).find(root, detail=True)
        base = root.split("://", 1)[1].strip("/")
        paths = {name.split("://", 1)[-1].lstrip("/"): error for name, error in found.items()}
        return {p.removeprefix(base).lstrip("/"): t.get("size") or 0 for p, t in paths.items()}

    return with_retries(root, "listed", look)


def remove(path: str) -> None:
    """Remove an object, or all below a folder; absent is fine.

    Raises:
        StoreFailed: Some of it is still there: a key may not delete it, as a rule.
    """

    def delete() -> None:
        fs = filesystem(path)
        found = list(fs.find(path))
        if found == [path.split("://", 1)[1]]:
            fs.rm_file(path)
        elif found:
            fs.rm(path, recursive=True)
            if left := fs.find(path):  # s3fs is silent on what it was refused
                raise OSError(f"{len(left)} objects still there, such as {left[0]}")

    with_retries(path, "removed", delete)


def copy(source: str, to: str) -> None:
    """Copy an object within its store."""
    with_retries(to, "written", lambda: filesystem(source).copy(source, to))
