"""The manifest of a corpus: its streams, sessions and shards, and what it is as a fingerprint.

A corpus is a folder with `manifest.json` (written last; without it there is no corpus) and
`shards/NNNNNN.tar` + `shards/NNNNNN.index.npy` (`shards.index`). Reading is distrustful: a manifest
is checked against this schema, shard names must be six digits, and sizes and hashes must hold.
"""

import hashlib
import re
from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from ndt3_dist import storage
from ndt3_dist.errors import BadInput, ManifestMismatch
from ndt3_dist.shards.index import CHANNELS_PER_TOKEN, STREAMS_1

VERSION = 2
"""That new corpora are of. One of version 1 is read, and grows and shrinks as it is."""
MANIFEST = "manifest.json"
REMOVED = "removed"
"""Dataset of the row that a session leaves which was taken out."""
SPLITS = ("train", "val", "calibration", "test")
MAX_KEY = 85
"""Longest sample key: with `.covariates.npy` it fills the 100 characters of a ustar header."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Array(_Strict):
    """One electrode array of a session."""

    name: str
    channels: int = Field(ge=1)


class Covariate(_Strict):
    """One behavioural dimension: stored values are (recorded value / scale)."""

    name: str
    unit: str
    scale: float = Field(gt=0)


class Stream(_Strict):
    """What a session has under one name, sampled so many times a second."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
    rate_hz: float = Field(gt=0)
    """Rows a second: a whole number of them in a bin."""
    dims: int = Field(ge=0)
    """Values of a row."""
    dtype: str
    unit: str
    changes: bool = False
    """Its records count the values of rows that differ from the row before, and not of all."""
    labels: list[str] = []
    """Name of each value of a row, such as its electrode's; none where there are none."""
    places: list[list[float] | None] = []
    """Where each is, x, y, z in mm; none where none is known."""

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler):
        """Streams without names keep the manifests that they had."""
        fields = dump(self)
        return {k: v for k, v in fields.items() if k not in ("labels", "places") or v}


class Interval(_Strict):
    """A labelled half-open range of bins of a session."""

    split: Literal["train", "val", "calibration", "test"]
    start_bin: int = Field(ge=0)
    stop_bin: int = Field(ge=0)


class Windows(_Strict):
    """What became of the windows of one split of one session."""

    kept: int = 0
    rejected: dict[str, int] = {}


class Session(_Strict):
    """All that is the same for every window of a session."""

    id: str
    dataset: str
    subject: str
    session: str
    source: str
    """Path of the recording below the recipe's source, never an absolute path."""
    source_sha256: str
    source_bytes: int = 0
    """Its length; 0 where it is not known."""
    licence: str
    bins: int
    start_s: float
    """Time of the session's first bin on the recording's own clock."""
    streams: list[Stream] = []
    """In the order of a window's members; none are said in version 1."""
    arrays: list[Array]
    """Electrode arrays of its spikes, side by side."""
    covariates: list[Covariate]
    intervals: list[Interval]
    windows: dict[str, Windows]
    spikes: int
    """Spikes counted in the session's bins."""
    spikes_outside: int
    """Spikes before its first or after its last bin, left out."""
    dropped_samples: int = 0
    """Covariate samples and times of the recording that did not pair and were left out; not
    written where there are none."""

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler):
        """Corpora without such samples keep the manifests that they had."""
        fields = dump(self)
        return {k: v for k, v in fields.items() if k != "dropped_samples" or v}

    @property
    def channels(self) -> int:
        return sum(a.channels for a in self.arrays)

    @property
    def is_removed(self) -> bool:
        """Whether this is the row that a session which was taken out has left."""
        return self.dataset == REMOVED


class Shard(_Strict):
    name: str = Field(pattern=r"^[0-9]{6}$")
    split: Literal["train", "val", "calibration", "test"]
    bytes: int
    sha256: str
    index_sha256: str
    samples: int
    tokens: int = 0
    """Of NDT3, in version 1."""


class Failure(_Strict):
    source: str
    error: str


class Manifest(_Strict):
    format: Literal["ndt3_dist.corpus"] = "ndt3_dist.corpus"
    version: Literal[1, 2] = VERSION
    fingerprint: str
    bin_size_ms: float
    window_bins: int
    streams: dict[str, str]
    """Name -> what it is, in the order of a window's members."""
    recipe: dict
    recipe_sha256: str
    sessions: list[Session]
    shards: list[Shard]
    failed: list[Failure] = []

    @classmethod
    def of(cls, **values) -> "Manifest":
        """One with the fingerprint of what it says."""
        made = cls(fingerprint="", **values)
        size = made.bin_size_ms, made.window_bins, made.version
        return made.model_copy(
            update={"fingerprint": fingerprint(made.sessions, made.shards, *size)}
        )

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the streams that windows may have, in the order of their members."""
        return STREAMS_1 if self.version == 1 else tuple(self.streams)

    def dump(self) -> dict:
        """What manifest.json holds: each version without the other's fields."""
        only = {1: {"sessions": {"__all__": {"streams"}}}, 2: {"shards": {"__all__": {"tokens"}}}}
        return self.model_dump(mode="json", exclude=only[self.version])  # pyright: ignore

    def next_shard(self) -> int:
        """Number of the shard that would be written next; none is used twice."""
        return max((int(s.name) + 1 for s in self.shards), default=0)

    def named(self, session: str) -> Session:
        """The session with this id; BadInput with the ids there are, otherwise."""
        for candidate in self.sessions:
            if candidate.id == session:
                return candidate
        known = ", ".join(s.id for s in self.sessions)
        raise BadInput(f"no session {session!r} in the corpus; there are: {known}")


OF_SOURCE = {"source", "source_bytes", "dropped_samples"}
"""Keys of a session that say nothing of what a corpus holds."""


def fingerprint(
    sessions: list[Session], shards: list[Shard], bin_ms: float, bins: int, version: int = VERSION
) -> str:
    """Identity of what a corpus holds: no paths, hosts or times.

    Args:
        sessions: Session table; what is only of the sources is left out, their hashes kept.
        shards: Shard table in order.
        bin_ms: Bin size in ms.
        bins: Bins per window.
    Returns:
        Hex sha256.
    """
    apart = OF_SOURCE | ({"streams"} if version == 1 else set())
    what = {
        "version": version,
        "bin_size_ms": float(bin_ms),
        "window_bins": bins,
        "sessions": [s.model_dump(exclude=apart) for s in sessions],
        "shards": [s.model_dump(exclude=set() if version == 1 else {"tokens"}) for s in shards],
    }
    return storage.sha256_bytes(storage.canonical_json(what))


def name_part(text: str) -> str:
    """`text` with everything that a file name or a sample key should not hold made '_'."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") or "x"


def session_id(dataset: str, subject: str, session: str) -> str:
    """File-name safe id of a session; long ones end in a hash of the whole."""
    name = "-".join(name_part(p) for p in (dataset, subject, session))
    if len(name) > MAX_KEY - 9:
        name = name[: MAX_KEY - 18] + "_" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return name


def sample_key(session: str, start_bin: int) -> str:
    """Key of a window: a function of the data, so that a repeated task overwrites it."""
    return f"{session}-{start_bin:08d}"


def neural_tokens_per_bin(arrays: list[Array], channels_per_token: int = CHANNELS_PER_TOKEN) -> int:
    """Neural tokens (patches) of one bin; patches never straddle arrays."""
    return sum(-(-a.channels // channels_per_token) for a in arrays)


def read_manifest(corpus: str) -> Manifest:
    """Read and check the manifest of a corpus.

    Raises:
        ManifestMismatch: There is none, or it is of another format, version or content.
    """
    path = storage.join(corpus, MANIFEST)
    try:
        values = storage.read_json(path)
    except (FileNotFoundError, NotADirectoryError) as e:
        raise ManifestMismatch(
            f"{corpus or 'data.corpus is empty'}: no manifest.json, so no corpus; "
            "give the `out` folder of a finished data_prep/preprocess.py"
        ) from e
    except PermissionError as e:
        raise ManifestMismatch(f"{path}: may not be read ({e}); see who may") from e
    if not isinstance(values, dict) or values.get("format") != "ndt3_dist.corpus":
        raise ManifestMismatch(f"{path}: not a manifest of an ndt3_dist corpus")
    if values.get("version") not in (1, VERSION):
        raise ManifestMismatch(
            f"{path}: corpus version {values.get('version')}, this program reads 1 and {VERSION}"
        )
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise ManifestMismatch(f"{path}: {where}: {first['msg']}; prepare the corpus anew") from e
    size = manifest.bin_size_ms, manifest.window_bins, manifest.version
    found = fingerprint(manifest.sessions, manifest.shards, *size)
    if found != manifest.fingerprint:
        raise ManifestMismatch(
            f"{path}: its content has fingerprint {found[:12]}, it claims "
            f"{manifest.fingerprint[:12]}; it was edited: prepare the corpus anew"
        )
    return manifest


def shard_path(corpus: str, name: str) -> str:
    return storage.join(corpus, "shards", f"{name}.tar")


def index_path(corpus: str, name: str) -> str:
    return storage.join(corpus, "shards", f"{name}.index.npy")
