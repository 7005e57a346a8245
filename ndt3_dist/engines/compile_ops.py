"""Compile what DeepSpeed would otherwise compile at the start of the first CPU run.

Run as `python -m ndt3_dist.engines.compile_ops`, as setup does; without a compiler it says so.
"""

import fcntl
import hashlib
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from ndt3_dist import log
from ndt3_dist.engines.aside import aside

ABANDONED_S = 600
"""Age of another program's lock on a shared folder from which nobody compiles any more."""


def find_tools() -> None:
    """Put this interpreter's own programs first: `ninja` is there, activated or not.

    DeepSpeed compiles with the first one on PATH, and again wherever that is another version.
    """
    here = str(Path(sys.executable).parent)
    if os.environ.get("PATH", "").split(os.pathsep)[0] != here:
        os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])


def own_folder() -> Path:
    """Where torch keeps what this environment alone compiles."""
    key = hashlib.sha256(sys.prefix.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "ndt3_dist" / "torch_extensions" / key


def own_extensions() -> None:
    """Let torch compile into `own_folder`, unless another folder was named.

    Environments that share one compile over each other's operators.
    """
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(own_folder()))


def load_collective(accelerator: Any, shown: bool = False) -> None:
    """Load DeepSpeed's collective of CPUs, and say so where it has to be compiled.

    Args:
        accelerator: DeepSpeed's; others than CPUs have no such operator.
        shown: Let DeepSpeed print.
    """
    builder = accelerator.create_op_builder("ShareMemCommBuilder")
    if builder is None:
        return
    say_if_it_compiles(builder)
    with log.waiting("building or loading DeepSpeed's operator"), aside(shown):
        load_once(builder)


def load_once(builder: Any) -> None:
    """Load DeepSpeed's operator, compiled by one process while others wait for it.

    Torch's own lock is a file that a killed process leaves, and that all later ones wait for
    without end. Ours goes with its process: who has it removes what was left.
    """
    from torch.utils.cpp_extension import _get_build_directory

    folder = Path(_get_build_directory(builder.name, False))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "ndt3_dist.lock").open("a") as ours:
        try:
            fcntl.flock(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with log.waiting("another process builds it; this one waits for its lock"):
                fcntl.flock(ours, fcntl.LOCK_EX)
        left = folder / "lock"
        alone = folder.parent == own_folder()
        if left.exists() and (alone or time.time() - left.stat().st_mtime > ABANDONED_S):
            left.unlink(missing_ok=True)
        builder.load(verbose=False)


def say_if_it_compiles(builder: Any) -> None:
    """Say beforehand where DeepSpeed compiles its collective of CPUs; it does so without a word."""
    from torch.utils.cpp_extension import _get_build_directory, include_paths

    folder = Path(_get_build_directory(builder.name, False))
    sources = [os.path.abspath(builder.deepspeed_src_path(path)) for path in builder.sources()]
    if not is_compiled(folder, builder.name, sources, include_paths()[0]):
        log.say("DeepSpeed compiles its collective of CPUs, for this environment: about 40 s, once")


def is_compiled(folder: Path, name: str, sources: list[str], torch_headers: str) -> bool:
    """Whether a folder of torch's extensions has an operator, made by this very environment.

    Environments may share that folder, and each compiles again what another one has compiled.
    """
    try:
        made = (folder / f"{name}.so").stat().st_mtime
        how = (folder / "build.ninja").read_text()
    except FileNotFoundError:
        return False
    with_these = [f" {path.replace(' ', '$ ')}\n" for path in sources]
    with_these.append(f" {shlex.quote(torch_headers)} ")
    new_enough = all(made >= os.stat(source).st_mtime for source in sources)
    return new_enough and all(words in how for words in with_these)


def main() -> None:
    find_tools()
    own_extensions()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if os.environ["DS_ACCELERATOR"] != "cpu":
        return
    from deepspeed.accelerator import get_accelerator

    load_collective(get_accelerator(), shown=True)


if __name__ == "__main__":
    main()
