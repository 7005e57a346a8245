"""Imports run one way, and heavy libraries are imported lazily, each in one file."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "ndt3_dist"
GROUND = {
    "errors",
    "config",
    "plain_yaml",
    "storage",
    "remote",
    "log",
    "append_file",
    "folder_lock",
    "lease",
    "voice",
}
CORE = GROUND | {"shards", "data", "model", "checkpoint"}
MAY_IMPORT = {
    "errors": set(),
    "cli": {"log", "programs"},
    "plain_yaml": set(),
    "config": {"errors", "plain_yaml"},
    "remote": {"errors", "log"},
    "versions": {"errors", "remote"},
    "storage": {"errors", "remote", "versions"},
    "log": {"errors", "voice"},
    "voice": set(),
    "append_file": {"errors", "log", "storage"},
    "folder_lock": {"errors", "storage"},
    "lease": {"errors", "log", "storage"},
    "shards": GROUND,
    "readers": GROUND | {"shards"},
    "simulate": GROUND,
    "prep": GROUND | {"shards", "readers"},
    "model": {"errors", "config", "plain_yaml", "shards"},
    "data": GROUND | {"shards", "model"},
    "checkpoint": GROUND | {"shards", "model"},
    "engines": CORE,
    "upstream": GROUND | {"model", "checkpoint"},
    "evaluate": CORE,
    "live": CORE | {"evaluate"},
    "train": CORE | {"engines", "upstream", "evaluate"},
    "tune": CORE | {"engines", "evaluate", "train"},
    "pages": CORE | {"evaluate", "train"},
    "api_decoder": CORE | {"readers", "prep", "evaluate"},
    "api": CORE | {"readers", "prep", "evaluate", "tune", "api_decoder"},
    "__init__": {"model", "api"},
}
"""Rooms that each room may import, besides itself; for the type checker alone, too."""
ROOMS = {*MAY_IMPORT} - {"cli"}
MAY_IMPORT |= {"cluster": ROOMS, "tasks": {*ROOMS, "cluster"}}
MAY_IMPORT |= {"programs": {*ROOMS, "tasks", "cluster"}}
OF_CLUSTER = ["ndt3_dist", "cluster", "search"]
"""All of it that tasks may use: whoever deletes it deletes the tasks that do."""
ONLY_PROGRAMS = "tasks", "cluster"
"""Rooms that may use all others and that only programs use: what lies in them, a file or a folder
each, can be deleted by itself."""
MOST_FILES = 20
"""Of a room."""

LAZY = {
    "ray": {"prep/pool.py", "cluster/search/tuning.py"},
    "optuna": {"cluster/search/ask.py"},
    "wandb": {"train/run_metrics.py"},
    "prometheus_client": {"train/run_metrics.py"},
    "pynwb": {"simulate/write_nwb.py"},
    "s3fs": set(),
    "huggingface_hub": {"checkpoint/hub.py"},
    "hdf5plugin": {"readers/hdf5.py"},
    "numcodecs": {"readers/nwb/zarr_chunks.py"},
    "zarr": set(),
    "torchao": {"engines/fp8.py"},
    "av": {"tasks/fmri/extract/read_media.py"},
    "transformers": {"tasks/fmri/extract/hidden_states.py"},
    "nilearn": {"tasks/fmri/brain_picture.py"},
    "nibabel": set(),
    "flash_attn": {"model/attention.py"},
    "deepspeed": {"engines/engine.py", "engines/compile_ops.py"},
    "matplotlib": {
        "pages/picture.py",
        "tasks/fmri/brain_picture.py",
        "tasks/words/word_figures.py",
    },
    "mne": {"tasks/words/ieeg/read_ieeg.py", "tasks/words/simulated_story.py"},
    "pandas": {"tasks/words/plug_in.py"},
    "falcon_challenge": {"tasks/falcon/official.py"},
    "pylsl": {"live/lsl.py"},
    "rich": {"cluster/watch/screen.py"},
}
"""Libraries that only these files import, and never at module level."""

FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path):
    """(module, whether it is imported at module level) for every import of a file."""
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "ndt3_dist":
                for alias in node.names:
                    yield f"ndt3_dist.{alias.name}", id(node) in top
            else:
                yield node.module, id(node) in top


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_below_it(path):
    room = room_of(path)
    for module, _ in imports_of(path):
        parts = module.split(".")
        if parts[0] != "ndt3_dist" or len(parts) < 2 or parts[1].startswith("__"):
            continue
        allowed = MAY_IMPORT[room] | {room}
        assert parts[1] in allowed, f"{path.name} of {room}/ imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_libraries_are_imported_lazily_in_one_file(path):
    name = path.relative_to(PACKAGE).as_posix()
    for module, at_top in imports_of(path):
        library = module.split(".")[0]
        if library in LAZY:
            assert name in LAZY[library], f"{name} imports {library}"
            assert not at_top, f"{name} imports {library} at module level"


def test_no_room_is_above_and_below_another():
    tuple(TopologicalSorter(MAY_IMPORT).static_order())  # raises CycleError
    for room in ONLY_PROGRAMS:
        above = ["tasks", "programs"] if room == "cluster" else ["programs"]
        assert [r for r, below in MAY_IMPORT.items() if room in below] == above


@pytest.mark.parametrize("room", ONLY_PROGRAMS)
def test_what_lies_in_tasks_or_cluster_can_be_deleted(room):
    """Nothing else, but for its own programs, imports it."""
    for path in FILES:
        if room_of(path) != "programs":
            parts = path.with_suffix("").relative_to(PACKAGE).parts
            found = [m.split(".") for m, _ in imports_of(path)]
            found = [parts for parts in found if parts[:2] == ["ndt3_dist", room]]
            if room_of(path) == "tasks":
                found = [parts for parts in found if parts[:3] != OF_CLUSTER]
            assert all(f[2:3] == [*parts[1:2]] and parts[0] == room for f in found), path


def test_rooms_are_small_and_no_two_files_have_one_name():
    known = [p for p in FILES if p.name != "__init__.py"]
    for folder, number in Counter(p.parent for p in known).items():
        assert number <= MOST_FILES, f"{folder.name}/ has {number} files"
    names = Counter(p.name for p in known if room_of(p) != "programs")
    assert [name for name, number in names.items() if number > 1] == []


def test_an_export_loads_with_model_and_config_alone():
    """Nothing that `load_model` needs imports another room, DeepSpeed, Ray or S3."""
    code = (
        "import sys, ndt3_dist\nndt3_dist.load_model\n"
        "heavy = {'deepspeed', 'ray', 's3fs', 'fsspec', 'pynwb', 'wandb', 'matplotlib', 'h5py'}\n"
        "rooms = {f'ndt3_dist.{r}' for r in 'shards prep data train checkpoint evaluate'.split()}\n"
        "sys.exit(str(sorted((heavy | rooms) & set(sys.modules))) if (heavy | rooms) & "
        "set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
