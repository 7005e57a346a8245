"""Names of people and days replaced before anything is written.

A pseudonym is a keyed hash: the same name has the same one in every file of a lab, and nobody
without the key can find the name by trying.
"""

import hashlib
import re
from pathlib import Path, PurePosixPath

from ndt3_dist import log
from ndt3_dist.errors import BadInput, Ndt3DistError
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.recordings import RecordingFile

SHORTEST_KEY = 16
SUFFIXES = (".nwb", ".mat", ".zarr")
"""What a label keeps of a file's name."""
LONGEST = 600
"""Characters of a failure's reason."""


def key_of(recipe: Recipe) -> bytes:
    """The key of a recipe with pseudonyms; b"" without.

    Raises:
        BadInput: There is no such file, or it is too short to keep a secret.
    """
    if not recipe.privacy.pseudonyms:
        return b""
    path = recipe.privacy.key_file
    try:
        key = Path(path).read_bytes().strip()
    except OSError as e:
        raise BadInput(
            f"privacy.key_file {path or '(empty)'}: cannot be read ({e.strerror}); make one with "
            "`head -c 32 /dev/urandom | base64 > FILE`, and keep it"
        ) from e
    if len(key) < SHORTEST_KEY:
        raise BadInput(
            f"privacy.key_file {path}: {len(key)} bytes; expected {SHORTEST_KEY} or more"
        )
    return hashlib.sha256(key).digest()


def pseudonym(key: bytes, kind: str, name: str) -> str:
    """Of a subject, session or source; the name itself without a key."""
    if not key:
        return name
    digest = hashlib.blake2b(f"{kind}|{name}".encode(), key=key, digest_size=6).hexdigest()
    return f"{kind[:3]}{digest}"


def source_label(key: bytes, name: str) -> str:
    """What manifests and messages call a recording."""
    kept = [s for s in SUFFIXES if key and name.lower().endswith(s)]
    return pseudonym(key, "file", name) + "".join(kept)


def clean(text: str, key: bytes, source: str) -> str:
    """A message without what a recording's path may say: each part, stem and entity of it."""
    if not key:
        return text
    parts = PurePosixPath(source).parts
    names = {source, *parts, *(PurePosixPath(part).stem for part in parts)}
    names |= {piece for part in parts for piece in re.split(r"[-_.]", part)}
    for name in sorted(names - COMMON, key=len, reverse=True):
        if len(name) > 2:
            text = text.replace(name, "...")
        elif name.isalpha():  # initials, which stand alone
            text = re.sub(rf"(?<![A-Za-z0-9]){name}(?![A-Za-z0-9])", "...", text)
    return text


def reason_of(error: Exception, key: bytes, source: RecordingFile) -> str:
    """Why a recording failed: without an absolute path, with no name that has a pseudonym."""
    label = source_label(key, source.name)
    said = str(error)
    if isinstance(error, OSError) and str(error.filename) == source.path:
        said = str(error.strerror)
    reason = log.without_secrets(" ".join(said.split()))
    for path in (source.path, log.without_secrets(source.path)):
        reason = reason.removeprefix(f"{path}: ").replace(path, label)
    if not isinstance(error, Ndt3DistError | OSError):
        # Not foreseen (a worker out of memory, a defect): its kind helps to report it.
        reason = f"{type(error).__name__}: {reason}"
    return clean(reason, key, source.name)[:LONGEST]


COMMON = {"nwb", "mat", "zarr", "sub", "ses", "session", "data", "units", "spikes"}
"""Parts of names that say nothing of anybody."""
