"""A local folder for an export that is named by an address: `s3://`, `https://` or `hf://`.

It is fetched once and kept in a folder of this user's, each version of it beside the others, with
the hashes of its files, which are verified each time. A copy is as old as what lies at the
address: that is looked at each time, and only where it cannot be reached the newest copy is taken.
Files that an export has are fetched and no others; config.json comes first, so that what is no
export is refused before its weights are.
"""

import contextlib
import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ndt3_dist import log, remote, storage
from ndt3_dist.checkpoint.hub import LOOKS, Hub
from ndt3_dist.errors import BadInput, CheckpointCorrupt, StoreFailed
from ndt3_dist.model import readout
from ndt3_dist.model.load import read_export_config
from ndt3_dist.shards.cache import default_cache

CONFIG, WEIGHTS, NORMALISATION = "config.json", "model.safetensors", "normalisation.json"
FILES = (CONFIG, WEIGHTS, NORMALISATION, "README.md", readout.FILE)
RECORD = "fetched.json"
"""Name, and per file what the address said of it and its sha256."""
VERSIONS = ("ETag", "etag", "Last-Modified", "LastModified", "mtime")
"""What stores say of a file that is another one for other bytes; the first there is counts."""


def local_export(name: str | Path, files: tuple[str, ...] = FILES) -> Path:
    """The folder of an export, which is fetched where `name` is an address.

    Args:
        name: A local folder, s3://BUCKET/FOLDER, https://HOST/FOLDER, hf://ORG/NAME[@REVISION].
        files: To fetch, of those that are there; config.json among them.
    Raises:
        BadInput, CheckpointCorrupt: It is no such address, or there is no export.
        StoreFailed: It cannot be reached, and was not fetched before.
    """
    if not storage.is_remote(name):
        return Path(name)
    name = str(name).rstrip("/")
    if re.search(r"[?#\s]", name):
        raise BadInput(f"{name}: an address with ?, # or a space; expected that of a folder")
    source = Hub(name) if name.startswith("hf://") else Store(name)
    shown = log.without_secrets(name)
    above = cache_folder() / f"{_file_name(shown)}-{_key(shown)}"
    with _locked(above):
        try:
            there = source.look(files)
        except StoreFailed as e:
            return _copy_without_network(above, shown, files, e)
        except PermissionError as e:
            if e.filename:
                raise
            raise BadInput(f"{shown}: may not be read ({e}); see the key and its policy") from e
        if CONFIG not in there:
            raise BadInput(f"{shown}: no {CONFIG} there, so no export; see the address")
        folder = above / _key({"asked": files, "there": there})
        if folder.is_dir() and not _is_intact(folder):
            log.warn(f"{folder}: damaged; {shown} is fetched again")
            shutil.rmtree(folder)
        if not folder.is_dir():
            part = above / ".part"  # what is left of a process that was killed goes first
            shutil.rmtree(part, ignore_errors=True)
            try:
                _fetch(source, shown, files, there, part)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
            part.rename(folder)
        return folder


def lacking(config: dict, there: Iterable[str]) -> list[str]:
    """Files that an export with this config.json needs, of those that are not there."""
    needed = {WEIGHTS, NORMALISATION, *([readout.FILE] if config.get("readout") else [])}
    return sorted(needed - {*there})


def cache_folder() -> Path:
    """Where copies are kept: ~/.cache/ndt3_dist_exports, beside the shards of remote corpora."""
    return default_cache().folder.with_name("ndt3_dist_exports")


class Store:
    """A folder of an object store or a web server, by fsspec."""

    def __init__(self, name: str):
        self.name = name

    def look(self, files: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """As `Hub.look`. Web servers do not tell a fault from a file that is not there, and some
        buckets refuse to say: whether config.json can be read shows which it is."""
        try:
            remote.read_range(storage.join(self.name, CONFIG), 0, 1, LOOKS)
        except StoreFailed as e:
            if getattr(e.__cause__, "status", 0) in (401, 403):  # a web server's
                raise PermissionError(str(e)) from e
            raise
        found = {}
        for file in files:
            url = storage.join(self.name, file)
            with contextlib.suppress(FileNotFoundError, PermissionError):
                told = remote.with_retries(url, "looked at", lambda u=url: _info(u), LOOKS)
                version = next((str(told[k]) for k in VERSIONS if told.get(k)), "")
                found[file] = {"size": told["size"], "version": version}
        return found

    def pieces(self, file: str) -> Iterator[bytes]:
        return storage.chunks(storage.join(self.name, file))


def _info(url: str) -> dict[str, Any]:
    told = remote.filesystem(url).info(url)
    if told.get("size") is None:
        raise BadInput(f"{url}: the server does not say how large it is; fetch it by other means")
    return told


def _fetch(source: Hub | Store, shown: str, files, there: dict, part: Path) -> None:
    """Fetch an export into a folder, with the record of it."""
    sha256 = {CONFIG: _fetch_file(source, CONFIG, there[CONFIG], part)}
    try:
        config = read_export_config(part)
    except (CheckpointCorrupt, AttributeError, UnicodeDecodeError) as e:
        raise CheckpointCorrupt(f"{shown}: no export ({str(e).replace(str(part), shown)})") from e
    if missing := [f for f in lacking(config, there) if f in files]:
        raise CheckpointCorrupt(f"{shown}: lacks {', '.join(missing)}; put the whole export there")
    total = sum(file["size"] for file in there.values())
    storage.check_room(part, total)
    log.note(f"{shown}: {total / 1e6:.1f} MB, into {part.parent}")
    for file in there:
        if file != CONFIG:
            sha256[file] = _fetch_file(source, file, there[file], part)
    record = {"name": shown, "asked": files, "there": there, "sha256": sha256}
    storage.write_json(part / RECORD, record)


def _fetch_file(source: Hub | Store, file: str, told: dict[str, Any], part: Path) -> str:
    """Fetch one file; its sha256, which is the one it is to have where that is known."""
    digest = hashlib.sha256()
    with storage.atomic_file(part / file) as f:
        for piece in log.progress_bytes(source.pieces(file), file, told["size"]):
            f.write(piece)
            digest.update(piece)
    if told.get("sha256", digest.hexdigest()) != digest.hexdigest():
        raise CheckpointCorrupt(
            f"{source.name}/{file}: came with other bytes than its sha256 says; try again"
        )
    return digest.hexdigest()


def _copy_without_network(above: Path, shown: str, files, fault: StoreFailed) -> Path:
    """The newest intact copy. Raises StoreFailed where there is none."""
    records = sorted(above.glob(f"*/{RECORD}"), key=lambda p: p.stat().st_mtime, reverse=True)
    for record in records:
        folder = record.parent
        if _is_intact(folder) and json.loads(record.read_bytes())["asked"] == [*files]:
            log.warn(f"{shown}: cannot be reached; its newest copy is taken, {folder}")
            return folder
    raise StoreFailed(
        f"{shown}: cannot be reached, and there is no copy of it in {above} ({fault}); see the "
        "network, or fetch it on another machine and give the folder's path"
    ) from fault


def _is_intact(folder: Path) -> bool:
    try:
        sha256 = json.loads((folder / RECORD).read_bytes())["sha256"]
        with log.waiting(f"verifying {folder}"):
            return all(storage.sha256_file(folder / n) == hash for n, hash in sha256.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _file_name(shown: str) -> str:
    return re.sub(r"[^\w.-]+", "_", shown.rsplit("/", 1)[-1], flags=re.ASCII)[-40:]


def _key(value: Any) -> str:
    return storage.sha256_bytes(storage.canonical_json(value))[:12]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process of this host at a time; the others find what it fetched."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        with log.waiting(f"waiting for {folder}, which another process may be filling"):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
