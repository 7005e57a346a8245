"""NDT3's own checkpoint files, opened with distrust."""

import io
import random
import struct
import warnings
import zipfile
from collections import OrderedDict
from contextlib import suppress

import pytest
import torch
from lightning_file import write_lightning

from ndt3_dist.errors import BadInput, CheckpointCorrupt, Ndt3DistError, Unsupported
from ndt3_dist.model.load import load_model
from ndt3_dist.upstream.from_ndt3 import import_checkpoint
from ndt3_dist.upstream.lightning import LightningFile


def rewrite(path, edit, compression=zipfile.ZIP_STORED):
    """Write an archive again with its members, as (name, bytes), through `edit`."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, data in edit(members):
            archive.writestr(name, data)


def change(name, new):
    """An edit of one member by the end of its name."""

    def edit(members):
        return [(n, new(d) if n.endswith(name) else d) for n, d in members]

    return edit


# Archives


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m: [*m, ("../outside", b"x")], "not a file in folder"),
        (lambda m: [*m, ("/tmp/outside", b"x")], "not a file in folder"),
        (lambda m: [*m, ("elsewhere/data/3", b"x")], "not a file in folder"),
        (lambda m: [*m, (m[0][0].split("/")[0] + "/data/../../x", b"x")], "not a file in folder"),
        (lambda m: [*m, m[-1]], "two members have one name"),
        (lambda m: [p for p in m if not p[0].endswith("/data.pkl")], "no member data.pkl"),
        (lambda m: [p for p in m if not p[0].endswith("/data/3")], "no member data/3"),
        (change("/data/3", lambda d: d + b"more"), "data/3 has .* bytes, data.pkl has"),
        (change("/data/3", lambda d: d[:-4]), "data/3 has .* bytes, data.pkl has"),
        (change("/byteorder", lambda d: b"big"), "byte order is big, expected little"),
        (change("/data.pkl", lambda d: d + bytes(1 << 25)), "data.pkl has .* bytes, expected"),
        (change("/data.pkl", lambda d: b"\x80\x02]."), "data.pkl holds a list"),
    ],
)
def test_archives_that_deceive_are_refused(tmp_path, edit, said):
    path = tmp_path / "a.ckpt"
    write_lightning(path)
    rewrite(path, lambda members: members)
    LightningFile(path).__exit__()  # written again without an edit, it opens
    rewrite(path, edit)
    with pytest.raises((CheckpointCorrupt, Unsupported), match=said):
        LightningFile(path)


def test_compressed_members_are_refused(tmp_path):
    path = tmp_path / "a.ckpt"
    write_lightning(path)
    rewrite(path, lambda m: m, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointCorrupt, match="is compressed or encrypted"):
        LightningFile(path)


def test_overlapping_members_are_refused(tmp_path):
    """Two entries of the list that lead to the same bytes."""
    path = tmp_path / "a.ckpt"
    write_lightning(path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        first, second = (archive.getinfo(n) for n in names if n.endswith(("/data/0", "/data/1")))
        start = archive.start_dir
    found = data.index(second.filename.encode(), start) - 46
    data[found + 42 : found + 46] = struct.pack("<I", first.header_offset)
    path.write_bytes(data)
    with pytest.raises(CheckpointCorrupt, match="overlaps another"):
        LightningFile(path)


def test_a_changed_byte_of_a_tensor_is_seen(tmp_path):
    path = tmp_path / "a.ckpt"
    write_lightning(path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("/data/2"))
        data[archive.getinfo(name).header_offset + 400] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointCorrupt, match="/data/2 is damaged"):
        import_checkpoint(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_files_are_refused_with_what_to_do(tmp_path):
    legacy = tmp_path / "legacy.ckpt"
    torch.save({"a": torch.zeros(1)}, legacy, _use_new_zipfile_serialization=False)
    with pytest.raises(Unsupported, match=r"torch 1\.6 or newer"):
        LightningFile(legacy)
    (tmp_path / "empty.ckpt").write_bytes(b"")
    with pytest.raises(Unsupported, match="not a zip archive"):
        LightningFile(tmp_path / "empty.ckpt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "plain.ckpt")
    with pytest.raises(CheckpointCorrupt, match="no state_dict"):
        import_checkpoint(tmp_path / "plain.ckpt", tmp_path / "out")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "plain.ckpt")
    with pytest.raises(BadInput, match="no hyper_parameters"):
        import_checkpoint(tmp_path / "plain.ckpt", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="absent"):
        LightningFile(tmp_path / "absent.ckpt")


@pytest.mark.parametrize("share", [0.2, 0.9, 0.999])
def test_a_cut_file_is_refused(tmp_path, share):
    path = tmp_path / "a.ckpt"
    write_lightning(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointCorrupt, match="not a whole zip archive"):
        LightningFile(path)


@pytest.mark.parametrize("seed", range(3))
def test_any_damage_of_the_archive_is_one_error(tmp_path, seed):
    """Bytes of headers and of the list of members changed; tensors are read, or it is refused."""
    draw, path = random.Random(seed), tmp_path / "a.ckpt"
    state = write_lightning(path)
    sound = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
        heads = [m.header_offset + n for m in archive.infolist() for n in range(40)]
    refused = 0
    for _ in range(300):
        data = bytearray(sound)
        for _ in range(draw.randrange(1, 4)):
            place = draw.choice([draw.choice(heads), draw.randrange(start, len(data))])
            data[place] = draw.choice([0, 255, draw.randrange(256)])
        path.write_bytes(data)
        refused += 1
        with suppress(Ndt3DistError), LightningFile(path) as file:
            for key, view in file.content["state_dict"].items():
                if torch.is_tensor(state[key]):
                    assert torch.equal(file.tensor(view), state[key])
            refused -= 1
    assert 0 < refused < 300


class Rebuilt:
    """Pickles as a tensor with any offset, shape and strides in the storage of another."""

    def __init__(self, tensor, offset, shape, stride):
        self.args = (tensor.untyped_storage(), offset, shape, stride)
        self.tensor = tensor

    def __reduce__(self):
        rebuild, (held, *_) = self.tensor.__reduce_ex__(2)
        assert rebuild.__name__ == "_rebuild_tensor_v2"
        return rebuild, (held, *self.args[1:], False, OrderedDict())


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (1, (6,), (1,)),
        (0, (7,), (1,)),
        (0, (2, 3), (4, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (10**12,), (0,)),
        (0, (2**40, 2**40), (0, 0)),
        (0, (2,), (1, 1)),
        (0, (1,) * 9, (1,) * 9),
        (0, (2.0,), (1,)),
        (0, (True,), (1,)),
        (0, (1, 2), (2**70, 1)),
        (2**63, (0,), (1,)),
    ],
)
def test_tensors_that_leave_their_storage_are_refused(tmp_path, offset, shape, stride):
    path = tmp_path / "a.ckpt"
    torch.save({"sound": Rebuilt(torch.arange(6.0), 1, (2, 2), (2, 1))}, path)
    with LightningFile(path) as file:
        assert file.tensor(file.content["sound"]).tolist() == [[1, 2], [3, 4]]
    torch.save({"a": Rebuilt(torch.arange(6.0), offset, shape, stride)}, path)
    with pytest.raises(CheckpointCorrupt, match="a tensor"):
        LightningFile(path)


@pytest.mark.parametrize("seed", range(3))
def test_any_damage_of_the_pickle_is_one_error(tmp_path, seed):
    """Bytes of data.pkl changed and the archive made sound again."""
    draw = random.Random(seed)
    sound = tmp_path / "sound.ckpt"
    write_lightning(sound)
    with zipfile.ZipFile(sound) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    path, refused = tmp_path / "a.ckpt", 0
    for number in range(60):
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w") as archive:
            for name, data in members:
                if name.endswith("/data.pkl"):
                    data = bytearray(data)
                    for _ in range(draw.randrange(1, 4)):
                        data[draw.randrange(len(data))] = draw.randrange(256)
                archive.writestr(name, bytes(data))
        path.write_bytes(held.getvalue())
        out = tmp_path / f"out{number}"
        with suppress(Ndt3DistError):
            refused += 1
            import_checkpoint(path, out, with_optimizer=True)
            refused -= 1
            load_model(out)
        assert not list(tmp_path.glob(".out*"))
    assert 0 < refused < 60
