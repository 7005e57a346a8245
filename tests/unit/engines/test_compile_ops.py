"""Compilers' helpers of this environment come first, and compiling is announced."""

import fcntl
import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ndt3_dist import voice
from ndt3_dist.engines.compile_ops import (
    find_tools,
    is_compiled,
    load_collective,
    load_once,
    own_extensions,
    say_if_it_compiles,
)


def test_this_interpreters_programs_come_first_and_once(monkeypatch):
    """Another ninja makes DeepSpeed compile its operator anew."""
    here = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join(["/usr/bin", here]))
    for _ in range(2):
        find_tools()
        assert os.environ["PATH"] == os.pathsep.join([here, "/usr/bin", here])


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """What builds an operator that this environment has compiled, and the folder of it."""
    from torch.utils.cpp_extension import include_paths

    (tmp_path / "shm.cpp").write_text("int main() {}")
    folder = tmp_path / "extensions" / "shm_op"
    folder.mkdir(parents=True)
    (folder / "build.ninja").write_text(
        f"cflags = -isystem {include_paths()[0]} -O2\nbuild shm.o: compile {tmp_path}/shm.cpp\n"
    )
    (folder / "shm_op.so").write_bytes(b"ELF")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(folder.parent))
    builder = SimpleNamespace(
        name="shm_op",
        sources=lambda: ["shm.cpp"],
        deepspeed_src_path=lambda path: str(tmp_path / path),
    )
    return builder, folder


def test_nothing_is_said_where_the_operator_is_there_or_is_none(compiled, capsys):
    builder, _ = compiled
    say_if_it_compiles(builder)
    load_collective(SimpleNamespace(create_op_builder=lambda _: None))  # a GPU's
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("change", ["absent", "cut short", "of another environment", "older"])
def test_one_line_says_so_before_deepspeed_compiles(compiled, capsys, change):
    builder, folder = compiled
    if change == "absent":
        (folder / "shm_op.so").unlink()
    elif change == "cut short":
        (folder / "build.ninja").unlink()
    elif change == "older":
        os.utime(folder / "shm_op.so", (0, 0))
    else:
        text = (folder / "build.ninja").read_text()
        (folder / "build.ninja").write_text(text.replace("-isystem ", "-isystem /another"))
    say_if_it_compiles(builder)
    assert capsys.readouterr().out == (
        "DeepSpeed compiles its collective of CPUs, for this environment: about 40 s, once\n"
    )


def test_what_deepspeed_itself_has_compiled_is_known(monkeypatch, tmp_path):
    """Its file of build rules names what is looked for: the headers of torch, and its sources."""
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
    from torch.utils import cpp_extension

    builder = ShareMemCommBuilder()
    sources = [os.path.abspath(builder.deepspeed_src_path(path)) for path in builder.sources()]
    flags = [f"-I{os.path.abspath(builder.deepspeed_src_path(p))}" for p in builder.include_paths()]
    cpp_extension._write_ninja_file_to_build_library(
        path=str(tmp_path / "build.ninja"),
        name=builder.name,
        sources=sources,
        extra_cflags=[*builder.cxx_args(), *flags],
        extra_cuda_cflags=[],
        extra_sycl_cflags=[],
        extra_ldflags=[],
        extra_include_paths=[],
        with_cuda=False,
        with_sycl=False,
        is_standalone=False,
    )
    headers = cpp_extension.include_paths()[0]
    assert not is_compiled(tmp_path, builder.name, sources, headers)
    (tmp_path / f"{builder.name}.so").write_bytes(b"ELF")
    assert is_compiled(tmp_path, builder.name, sources, headers)


@pytest.mark.parametrize("place", ["own", "shared"])
def test_what_a_killed_process_left_of_torchs_lock_is_in_nobodys_way(tmp_path, monkeypatch, place):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "ndt3_dist" / "shared"))
    if place == "own":
        monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
        own_extensions()
    folder = Path(os.environ["TORCH_EXTENSIONS_DIR"]) / "op"
    assert folder.is_relative_to(tmp_path / "cache") == (place == "own")
    lock, seen = folder / "lock", []
    lock.parent.mkdir(parents=True)
    lock.write_text("")

    class Builder:
        name = "op"

        def load(self, verbose):
            seen.append(lock.exists())

    load_once(Builder())
    old = time.time() - 700
    if place == "shared":  # another program may hold it
        os.utime(lock, (old, old))
        load_once(Builder())
    assert seen == ([False] if place == "own" else [True, False])


def test_who_waits_for_another_process_to_build_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(voice, "FIRST_S", 0.0)
    monkeypatch.setattr(voice, "POLL_S", 0.01)
    builder = SimpleNamespace(name="op", load=lambda verbose: None)
    (tmp_path / "op").mkdir()
    with (tmp_path / "op" / "ndt3_dist.lock").open("a") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        timer = threading.Timer(0.3, fcntl.flock, [theirs, fcntl.LOCK_UN])
        timer.start()
        load_once(builder)
        timer.join()
    assert capsys.readouterr().err == (
        "another process builds it; this one waits for its lock: 0 s so far\n"
    )
