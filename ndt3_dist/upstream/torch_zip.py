"""torch's zip archives, opened with distrust and without torch's loader.

    ROOT/data.pkl   ROOT/data/0 ...   ROOT/byteorder   ROOT/version

One folder of plainly stored members, laid one after the other. Refused by name: compressed,
encrypted, repeated or overlapping members, paths that leave the folder, another byte order, bytes
that do not have their CRC, and torch's format before 1.6. Sizes are known from the archive's list
before anything is read, and none can exceed the file's own.

Source: torch.serialization and caffe2/serialize of torch 2.13.
"""

import struct
import zipfile
from pathlib import Path
from typing import Any

from ndt3_dist import storage
from ndt3_dist.errors import BadInput, CheckpointCorrupt, Unsupported
from ndt3_dist.upstream.pickles import brief

LOCAL, CENTRAL, DESCRIPTOR = b"PK\x03\x04", b"PK\x01\x02", b"PK\x07\x08"
"""What the header before a member, its entry in the list, and the note behind it begin with."""

DAMAGE = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error)
"""What Python's zipfile raises for archives that are not sound."""

MOST_PICKLE_BYTES = 1 << 23
"""Upstream's pickles have some hundred kilobytes, tensors apart."""


class TorchZip:
    """An archive opened for reading; use it in a `with` block.

    Attributes:
        path: The file.
        root: Its only folder.
    Raises:
        CheckpointCorrupt: It is damaged, or made to deceive; names the member.
        Unsupported: It has torch's format before 1.6, or another byte order.
    """

    def __init__(self, path: str | Path):
        if storage.is_remote(path):
            raise BadInput(f"{path}: copy the checkpoint to a disk first")
        self.path = Path(path)
        with self.path.open("rb") as f:
            if f.read(4) != LOCAL:
                raise Unsupported(
                    f"{path}: not a zip archive; expected a checkpoint of torch 1.6 or newer: "
                    "load and save it once with the torch that wrote it, or fetch it again"
                )
        try:
            self.archive = zipfile.ZipFile(self.path)
        except (*DAMAGE, OSError) as e:
            raise self.corrupt(f"not a whole zip archive ({brief(e)})") from e
        try:
            self.root = self._check_members()
            self._check_byte_order()
        except BaseException:
            self.archive.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_: Any) -> None:
        self.archive.close()

    def corrupt(self, what: str) -> CheckpointCorrupt:
        return CheckpointCorrupt(f"{self.path}: {what}; fetch it again from where it came from")

    def _check_members(self) -> str:
        """Check every entry of the list; returns the folder that all lie in."""
        members = sorted(self.archive.infolist(), key=lambda m: m.header_offset)
        if len(members) != len(self.archive.NameToInfo):
            raise self.corrupt("two members have one name")
        root = members[0].filename.split("/")[0] if members else ""
        end = 0
        for member in members:
            name, parts = brief(member.filename), member.filename.split("/")
            if parts[0] != root or len(parts) < 2 or {"", ".", ".."} & {*parts} or "\\" in name:
                raise self.corrupt(f"member {name} is not a file in folder {brief(root)}")
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                raise self.corrupt(f"member {name} is compressed or encrypted, not plainly stored")
            if member.file_size != member.compress_size or member.header_offset < end:
                raise self.corrupt(f"member {name} overlaps another, or has two sizes")
            end = self.data_offset(member) + member.file_size
            if end > self.archive.start_dir:
                raise self.corrupt(f"member {name} reaches into the list of members")
        return root

    def _check_byte_order(self) -> None:
        if f"{self.root}/byteorder" in self.archive.NameToInfo:  # absent before torch 2.1
            order = self.read("byteorder", 16)
            if order != b"little":
                raise Unsupported(
                    f"{self.path}: byte order is {brief(order.decode('latin1'))}, expected little; "
                    "save it again on a little-endian machine"
                )

    def data_offset(self, member: zipfile.ZipInfo) -> int:
        """Where the bytes of a member begin in the file."""
        with self.path.open("rb") as f:
            f.seek(member.header_offset)
            header = f.read(30)
        if len(header) != 30 or header[:4] != LOCAL:
            raise self.corrupt(f"no header before member {brief(member.filename)}")
        name, extra = struct.unpack("<HH", header[26:30])
        return member.header_offset + 30 + name + extra

    def member(self, name: str) -> zipfile.ZipInfo:
        """The entry of a file in the archive's folder."""
        try:
            return self.archive.getinfo(f"{self.root}/{name}")
        except KeyError:
            raise self.corrupt(f"no member {brief(name)}") from None

    def read(self, name: str, most_bytes: int | None = None) -> bytes:
        """The bytes of a file in the archive's folder, checked against their CRC."""
        member = self.member(name)
        if most_bytes is not None and member.file_size > most_bytes:
            raise self.corrupt(
                f"{name} has {member.file_size} bytes, expected {most_bytes} at most"
            )
        try:
            return self.archive.read(member)
        except DAMAGE as e:
            raise self.corrupt(f"member {brief(member.filename)} is damaged ({brief(e)})") from e
