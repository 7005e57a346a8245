"""The folder that an image for FALCON's server is built from: weights, code, Dockerfile.

What is in it needs nothing outside of it but the packages of its requirements.txt, and is tried
before it is given out: the copy decodes silent bins of every recording in a process of its own.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import ndt3_dist
from ndt3_dist import storage
from ndt3_dist.checkpoint.local_export import FILES
from ndt3_dist.config import PROJECT
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.falcon.decoder import How, MovementDecoder
from ndt3_dist.tasks.falcon.fitted import FILE, read_fitted
from ndt3_dist.tasks.falcon.scoring import open_decoder
from ndt3_dist.tasks.falcon.tags import task_of
from ndt3_dist.tasks.falcon.text_head import FILE as HEAD

PACKAGES = [
    "torch",
    "numpy",
    "einops",
    "pydantic",
    "pyyaml",
    "safetensors",
    "xxhash",
    "fsspec",
    "tqdm",
    "h5py",
]
"""Of which the versions here are named; FALCON's own package brings what it needs."""
EVALUATOR = "falcon-challenge==1.0.2"
SCRIPT = '''"""Decode FALCON's recordings with what lies beside this file (`ndt3 falcon --help`)."""

from ndt3_dist import log
from ndt3_dist.programs.tasks.falcon import main

if __name__ == "__main__":
    log.run_program(main)
'''
SILENT_BINS = 3


def build_submission(folder: str | Path, out: str | Path) -> list[str]:
    """Make the folder and try it.

    Args:
        folder: What a fit left; it must decode every recording of its task.
        out: Folder to make; refused where it exists and is not empty.
    Returns:
        Its files with their sizes, as lines.
    Raises:
        BadInput: Recordings are missing, an export does not fit, or the copy does not decode.
    """
    folder, out, fitted = Path(folder), Path(out), read_fitted(folder)
    task = task_of(fitted.task)
    if missing := [tag for tag in task.tags if tag not in fitted.decoders]:
        raise BadInput(
            f"{folder}: nothing decodes {', '.join(missing)} of FALCON {task.name}; the server "
            "asks for all its recordings, so fit zero-shot, few-shot or oracle without --only"
        )
    if out.exists() and any(out.iterdir()):
        raise BadInput(f"{out}: exists and is not empty; choose another folder or remove it")
    open_decoder(folder, how=How(device="cpu"))
    for export in fitted.exports:
        (out / export).mkdir(parents=True)
        for name in (*FILES, HEAD):
            if (folder / export / name).is_file():
                shutil.copy(folder / export / name, out / export / name)
    package = Path(ndt3_dist.__file__).parent
    leave = shutil.ignore_patterns("__pycache__", "*.js")
    shutil.copytree(package, out / "ndt3_dist", ignore=leave)
    shutil.copy(dockerfile(), out / "Dockerfile")
    shutil.copy(folder / FILE, out / FILE)
    (out / "decode.py").write_text(SCRIPT)
    (out / "requirements.txt").write_text("\n".join([*requirements(), EVALUATOR, ""]))
    try_copy(out)
    files = sorted(p for p in out.rglob("*") if p.is_file() and package.name not in p.parts[:-1])
    lines = [f"{p.relative_to(out)}  {p.stat().st_size:,} bytes" for p in files]
    storage.write_json(
        out / "files.json", {p.relative_to(out).as_posix(): storage.sha256_file(p) for p in files}
    )
    return lines


def dockerfile() -> Path:
    """docker/falcon.Dockerfile, of a checkout or inside the installed package.

    Beside an installed package there may be another's folder `docker`: the file itself is sought.
    """
    places = PROJECT, Path(ndt3_dist.__file__).parent
    return next(f for f in (p / "docker" / "falcon.Dockerfile" for p in places) if f.is_file())


def requirements() -> list[str]:
    """Packages at the versions that are installed here."""
    versions = ((name, importlib.metadata.version(name)) for name in PACKAGES)
    return [f"{name}=={version.partition('+')[0]}" for name, version in versions]


def try_copy(out: Path) -> None:
    """Decode silent bins with the copy, as the image will: in its folder, by its own code."""
    command = [sys.executable, "-s", "decode.py", "check", "."]
    alone = {**os.environ, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=out, env=alone, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise BadInput(f"{out}: its decoder does not run there: {said[-1]}")


def check_decodes(folder: str | Path) -> int:
    """Decode silent bins of every recording; the number of recordings.

    Raises:
        BadInput, CheckpointCorrupt: One cannot be decoded.
    """
    decoder = open_decoder(folder, 1, How(device="cpu"))
    task, tags = decoder.task, [*decoder.fitted.decoders]
    for tag in tags:
        decoder.reset([tag])
        for _ in range(SILENT_BINS):
            decoder.predict(np.zeros((1, task.channels), np.uint8))
        if not isinstance(decoder, MovementDecoder):
            decoder.on_done(np.array([True]))
    return len(tags)
