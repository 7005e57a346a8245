"""A pickle from elsewhere is data: whatever it names, nothing of it is run."""

import copyreg
import functools
import os
import pickle
import random
import struct
import subprocess
import tracemalloc
from collections import OrderedDict
from contextlib import suppress

import numpy as np
import pytest
import torch
from lightning_file import upstream_modules

from ndt3_dist.errors import CheckpointCorrupt
from ndt3_dist.upstream.lightning import is_known
from ndt3_dist.upstream.pickles import Inert, Name, Reader


def read(data: bytes):
    def persistent(id_):
        raise CheckpointCorrupt("odd persistent id")

    return Reader("file", is_known, lambda kind, args: Inert(kind, args), persistent).read(data)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


class Calls:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.fixture
def sentinel(tmp_path):
    """A file that hostile pickles try to make; its path has no quotes or spaces."""
    return tmp_path / "it_ran"


def live_pickles(path):
    """Pickles that make a file when Python's own loader reads them."""
    shell, code = f"touch {path}", f"open({str(path)!r}, 'w').close()"
    load = functools.partial(exec, code)
    nested = {"state_dict": OrderedDict(a=[({"b": Calls(os.system, shell)},)])}
    yield "os.system", pickle.dumps(Calls(os.system, shell), 2)
    yield "os.system, protocol 4", pickle.dumps(Calls(os.system, shell), 4)
    yield "deep inside a state dict", pickle.dumps(nested, 2)
    yield "eval", pickle.dumps(Calls(eval, code), 2)
    yield "exec", pickle.dumps(Calls(exec, code), 2)
    yield "subprocess", pickle.dumps(Calls(subprocess.call, ["touch", str(path)]), 4)
    yield "a partial", pickle.dumps(Calls(load), 4)
    yield (
        "import, then attribute",
        (
            b"\x80\x04cbuiltins\ngetattr\n(cbuiltins\n__import__\n"
            + text("os")
            + b"\x85R"
            + text("system")
            + b"tR"
            + text(shell)
            + b"\x85R."
        ),
    )
    yield (
        "dotted name",
        b"\x80\x04cos\npath.os.system\n" + text(shell) + b"\x85R.",
    )
    yield (
        "dotted name in an allowed package",
        (
            b"\x80\x04ctyping\nsys.modules.get\n"
            + text("os")
            + b"\x85R0"
            + b"cos\nsystem\n"
            + text(shell)
            + b"\x85R."
        ),
    )
    yield "INST", b"(" + text(shell) + b"ios\nsystem\n."
    yield "OBJ", b"(cos\nsystem\n" + text(shell) + b"o."
    yield (
        "in the state of a stand-in",
        (
            b"\x80\x02cenum\nauto\n)\x81}"
            + text("x")
            + pickle.dumps(Calls(os.system, shell), 2)[2:-1]
            + b"sb."
        ),
    )


@pytest.mark.parametrize("number", range(13))
def test_calls_are_refused_and_nothing_ran(sentinel, number):
    name, data = list(live_pickles(sentinel))[number]
    with pytest.raises(CheckpointCorrupt, match=r"names|has the instruction") as refused:
        read(data)
    assert "nothing of it was run" in str(refused.value), name
    assert not sentinel.exists(), name
    pickle.loads(data)  # noqa: S301 - ours, and the proof that it would have run
    assert sentinel.exists(), f"{name}: harmless, so its refusal shows nothing"


def test_extension_codes_are_refused(sentinel):
    """A registered code stands for a name that the pickle itself does not show."""
    copyreg.add_extension(os.system.__module__, "system", 240)
    try:
        data = pickle.dumps(Calls(os.system, f"touch {sentinel}"), 2)
        assert b"system" not in data
        with pytest.raises(CheckpointCorrupt, match="instruction EXT1"):
            read(data)
    finally:
        copyreg.remove_extension(os.system.__module__, "system", 240)
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("builtins", "open"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch._utils", "_rebuild_device_tensor_from_numpy"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("copyreg", "_reconstructor"),
        ("ndt3_dist.storage", "remove"),
        ("omegaconfx", "DictConfig"),
        ("typing", "os.system"),
        ("collections", "namedtuple"),
    ],
)
def test_names_are_allowed_one_by_one(module, name):
    with pytest.raises(CheckpointCorrupt, match=f"names {module}.{name}"):
        read(f"c{module}\n{name}\n.".encode())


def test_numpy_arrays_are_refused():
    with pytest.raises(CheckpointCorrupt, match="numpy"):
        read(pickle.dumps(np.arange(3), 2))


def test_known_classes_become_records_that_run_nothing():
    ran = []
    with upstream_modules() as modules:
        cls = modules["context_general_bci.dataset"].DataAttrs
        cls.__setstate__ = lambda self, state: ran.append(state)
        made = cls()
        made.__dict__.update({"behavior_dim": 17, "__class__": "x", "__setstate__": "y"})
        data = pickle.dumps(made, 2)
        found = read(data)
        assert not ran
        pickle.loads(data)  # noqa: S301
        assert ran, "the stand-in's own method would have been called"
    assert found.kind == Name("context_general_bci.dataset", "DataAttrs")
    assert found.state == made.__dict__
    assert type(found) is Inert


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x80\x02ctyping\nAny\n}b.", "sets the state of typing.Any"),
        (b"\x80\x02X\x01\x00\x00\x00a)R.", "calls a"),
        (b"\x80\x02ctyping\nAny\n}" + text("a") + b"K\x01sR.", "calls typing.Any"),
        (b"\x80\x02ctyping\nAny\n)R(K\x01e.", "adds items to a typing.Any"),
        (b"\x80\x02K\x01Q.", "odd persistent id"),
        (b"\x80\x02Pstorage\n.", "instruction PERSID"),
        (b"\x80\x02K\x012.", "instruction DUP"),
        (b"\x80\x04ctyping\nAny\n)}\x92.", "instruction NEWOBJ_EX"),
        (b"\x80\x04" + text("typing") + text("Any") + b"\x93.", "instruction STACK_GLOBAL"),
        (b"\x80\x04\x8f.", "instruction EMPTY_SET"),
        (pickle.dumps({"a": 1}, 4), "instruction FRAME"),
        (b"\x80\x02}]K\x01s.", "a list as a key"),
        (b"\x80\x02K\x01.more", "behind its end"),
        (b"\x80\x02(K\x01.", "behind its end"),
        (b"\x80\x02K\x01", "not a pickle"),
        (b"\x80\x02h\x05.", "not a pickle"),
        (b"\x80\x02a.", "not a pickle"),
        (b"\x80\x02t.", "not a pickle"),
        (b"\x80\x02X\xff\xff\xff\x7fab.", "not a pickle"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fab.", "not a pickle"),
        (b"\xff\xff", "not a pickle"),
        (b"", "not a pickle"),
    ],
)
def test_what_is_not_plain_data_is_refused(data, said):
    with pytest.raises(CheckpointCorrupt, match=said):
        read(data)


SHARED = b"K\x01" + b"q\x00h\x00\x86" * 20
"""A pair of twice the same pair, twenty levels deep: a million values to hash or to print."""


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"}" + SHARED + b"K\x01s.", "a tuple as a key"),
        (SHARED + b")R.", "calls a tuple"),
        (SHARED + b")\x81.", "calls a tuple"),
        (SHARED + b"Q.", "odd persistent id"),
        (SHARED + b"}b.", "sets the state of a tuple"),
        (SHARED + b"K\x01a.", "adds items to a tuple"),
        (b"N" + b"\x85" * 10**4 + b")R.", "calls a tuple"),
        (b"}N" + b"\x85" * 10**4 + b"Ns.", "a tuple as a key"),
    ],
)
def test_values_that_are_cheap_to_write_are_cheap_to_refuse(data, said):
    """Sixty levels would take for ever, and a million nested tuples as a key end the process."""
    with pytest.raises(CheckpointCorrupt, match=said):
        read(b"\x80\x02" + data)


def test_memo_numbers_and_shared_values_take_no_room():
    assert read(b"\x80\x02K\x01r\xff\xff\xff\x7f.") == 1
    read(b"\x80\x02" + SHARED + b".")


@pytest.mark.parametrize("code", [b"]", b"}", b")", b"(", b"N", b"K\x01", b"h\x00)R"])
def test_an_instruction_takes_a_hundred_bytes_at_most(code):
    """So that the size of a pickle bounds its memory; a set, of protocol 4, takes 230."""
    reader = Reader("file", is_known, lambda kind, args: Inert(kind, args), lambda id_: id_)
    data = b"\x80\x02ctyping\nAny\nq\x00" + code * 20_000
    tracemalloc.start()
    with pytest.raises(CheckpointCorrupt, match="not a pickle"):  # it has no end
        reader.read(data)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 100 * len(data)


def test_keys_that_meet_in_a_table_are_few():
    """Each of them is compared with all before it: a file of megabytes would take days."""

    def keys(numbers) -> bytes:
        longs = (i.to_bytes(10, "little", signed=True) for i in numbers)
        return b"\x80\x02}(" + b"".join(b"\x8a\x0a" + i + b"N" for i in longs) + b"u."

    assert len(read(keys(range(10_000)))) == 10_000
    with pytest.raises(CheckpointCorrupt, match="more than 10,000 keys"):
        read(keys(range(10_001)))
    with pytest.raises(CheckpointCorrupt, match="as a key"):
        read(keys(i * (2**61 - 1) for i in range(10)))


def test_a_tuple_that_is_a_key_has_a_few_strings():
    """Tuples of -1 and -2 share one hash; the hash of a wide one costs its width at every use."""
    strings = b"(" + b"".join(text(str(i)) for i in range(10)) + b"t"
    assert read(b"\x80\x02}" + strings + b"Ns.") == {tuple("0123456789"): None}
    for parts in (b"K\x01", b"J\xff\xff\xff\xff", b")", text("a") * 11):
        with pytest.raises(CheckpointCorrupt, match="a tuple as a key"):
            read(b"\x80\x02}(" + parts + b"tNs.")


def test_a_dictionary_that_grows_by_pieces_is_counted_whole():
    pieces = b"".join(b"(" + text(str(i)) + b"Nu" for i in range(10_001))
    with pytest.raises(CheckpointCorrupt, match="more than 10,000 keys"):
        read(b"\x80\x02}" + pieces + b".")


def test_data_reads_as_python_reads_it():
    """Every kind of plain value, in the protocol that torch.save writes."""
    value = {
        "a": [1, -2, 300, 70000, 2**40, -(2**70), 1.5, True, False, None, "x" * 300, "\u00e9"],
        ("k", "l"): ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        7: {"nested": [[], {}], None: {1.5: 0, True: 1}},
    }
    value["shared"] = value["a"]
    found = read(pickle.dumps(value, torch.serialization.DEFAULT_PROTOCOL))
    assert found == value
    assert found["shared"] is found["a"]


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize("seed", range(4))
def test_any_damage_is_data_or_one_error(seed):
    """Random bytes of a genuine pickle changed: no other exception, and no hang."""
    draw = random.Random(seed)
    with upstream_modules() as modules:
        attrs = modules["context_general_bci.dataset"].DataAttrs()
        attrs.dims = [1, 2.5, "three", (4,)]
        data = pickle.dumps({"a": attrs, "b": OrderedDict(c=[attrs] * 3)}, 2)
    for _ in range(2000):
        broken = bytearray(data)
        for _ in range(draw.randrange(1, 4)):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        with suppress(CheckpointCorrupt):
            read(bytes(broken))
