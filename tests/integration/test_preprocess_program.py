"""The preparation program, run for real with Ray: same bytes, named failures, nothing half done.

A Ray takes seconds to start, so what needs none (refusals before it starts, single tasks) runs
without, and the rest shares its runs.
"""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from forks import run_program as run_in_fork
from pools import pool_of
from refusals import besides

from ndt3_dist import storage
from ndt3_dist.errors import BadInput, ManifestMismatch, NoRoom, ShardCorrupt
from ndt3_dist.lease import Lease
from ndt3_dist.prep import job
from ndt3_dist.prep.pool import ray_pool
from ndt3_dist.prep.recipe import Recipe, load_recipe
from ndt3_dist.prep.recordings import find_recordings
from ndt3_dist.prep.stages import plan_shards, session_task
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import read_manifest
from ndt3_dist.shards.verify import verify_corpus
from ndt3_dist.storage import sha256_file

ROOT = Path(__file__).resolve().parents[2]
NWB_YAML = ROOT / "data_prep" / "recipes" / "nwb.yaml"
SETTINGS = (
    "dataset=t",
    "covariates.path=processing/behavior/Velocity/cursor_vel",
    "shard_mb=0.02",  # a handful of windows a shard
)


def run_program(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    """Run preprocess.py in `folder` on the shipped nwb.yaml."""
    recipe = "--recipe", NWB_YAML, *SETTINGS, "num_workers=1"
    return run_in_fork("data_prep/preprocess.py", *recipe, *overrides, cwd=folder)


@pytest.fixture(scope="module")
def one_ray():
    """`run_all` of a Ray with eight workers, for all tests of this file that need not start one."""
    with ray_pool(Recipe(dataset="t", num_workers=8), 8) as run_all:
        yield run_all


@pytest.fixture
def run_here(one_ray, monkeypatch, capsys):
    """`run_program` in this process, on that Ray."""

    def run(folder: Path, *overrides: str) -> SimpleNamespace:
        program = str(ROOT / "data_prep/preprocess.py")
        monkeypatch.setattr(job, "workers", pool_of(one_ray))
        monkeypatch.setattr(
            sys, "argv", [program, "--recipe", str(NWB_YAML), *SETTINGS, *overrides]
        )
        monkeypatch.chdir(folder)
        with pytest.raises(SystemExit) as e:
            runpy.run_path(program, run_name="__main__")
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=e.value.code or 0, stdout=out, stderr=err)

    return run


def hashes(folder: Path) -> dict[str, str]:
    """Every file below a folder -> its sha256."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}


def refused(done: subprocess.CompletedProcess, *parts: str) -> None:
    """Exit 1 after one error line that holds all of `parts`."""
    assert done.returncode == 1, done.stderr
    lines = besides(done.stderr).splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory, write_session):
    """A folder with three sound recordings in nwb/."""
    folder = tmp_path_factory.mktemp("recordings")
    for number, name in enumerate(("a", "b", "c")):
        write_session(folder / "nwb" / f"{name}.nwb", seed=number, subject="ABA"[number])
    return folder


@pytest.fixture(scope="module")
def finished(recordings):
    """(folder, what the program said) after one run with one worker into corpus/."""
    done = run_program(recordings, "source=nwb", "out=corpus")
    assert done.returncode == 0, done.stderr
    return recordings, done


def recipe_of(source: Path, out: Path, *overrides: str):
    return load_recipe(NWB_YAML, [*SETTINGS, f"source={source}", f"out={out}", *overrides])


def small_disk(folder: Path, kilobytes: int):
    """Mount a disk of that size on `folder`, or skip; the fixture below takes it away."""
    folder.mkdir()
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("a small disk needs root and mount")
    options = f"size={kilobytes}k,mode=755"
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
    """Make a small disk: kilobytes -> its folder."""
    folder = tmp_path / "disk"

    def make(kilobytes: int) -> Path:
        small_disk(folder, kilobytes)
        return folder

    yield make
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)


def test_a_corpus_is_written_verified_and_told(finished):
    folder, done = finished
    corpus = str(folder / "corpus")
    manifest = read_manifest(corpus)
    assert [s.id for s in manifest.sessions] == ["t-A-a", "t-A-c", "t-B-b"]
    assert [s.source for s in manifest.sessions] == ["a.nwb", "c.nwb", "b.nwb"]
    assert sum(s.samples for s in manifest.shards) == 18
    assert len(manifest.shards) > 1
    assert manifest.failed == []
    assert verify_corpus(corpus) == []
    assert besides(done.stderr) == ""
    told = r"starting Ray with 1 workers \.\.\.\nRay runs after \d+\.\d s\n"
    assert re.match(told, done.stdout), done.stdout
    assert f"corpus {manifest.fingerprint[:12]} at corpus" in done.stdout
    assert "3 sessions, 18 windows" in done.stdout
    assert sorted(p.name for p in (folder / "corpus").iterdir()) == [
        "manifest.json",
        "recipe.json",
        "shards",
    ]


def test_a_manifest_names_no_place_of_the_machine_it_was_made_on(finished):
    folder, _ = finished
    for name in ("manifest.json", "recipe.json"):
        text = (folder / "corpus" / name).read_text()
        assert str(folder) not in text
        assert str(ROOT) not in text


def test_any_number_of_workers_writes_the_bytes_that_one_writes(finished, run_here):
    folder, _ = finished
    assert run_program(folder, "source=nwb", "out=by2", "num_workers=2").returncode == 0
    assert (
        run_here(folder, f"source={folder}/nwb", f"out={folder}/by8", "num_workers=8").returncode
        == 0
    )
    alone = run_program(folder, "source=nwb", "out=by0", "num_workers=0")
    small = run_program(folder, "source=nwb", "out=auto", "num_workers=auto")
    assert "in this process" in small.stdout
    assert "in this process" not in alone.stdout
    for name in ("by2", "by8", "by0", "auto"):
        assert hashes(folder / name) == hashes(folder / "corpus")
        assert len(hashes(folder / name)) >= 6


def test_a_second_run_says_complete_and_touches_nothing(finished):
    folder, _ = finished
    before = {p: p.stat().st_mtime_ns for p in (folder / "corpus").rglob("*")}
    done = run_program(folder, "source=nwb", "out=corpus")
    assert done.returncode == 0, done.stderr
    assert "corpus: complete already, nothing to do" in done.stdout
    assert {p: p.stat().st_mtime_ns for p in (folder / "corpus").rglob("*")} == before


def test_an_output_of_another_recipe_is_refused_and_left_alone(finished):
    folder, _ = finished
    before = hashes(folder / "corpus")
    done = run_program(folder, "source=nwb", "out=corpus", "bin_size_ms=10")
    refused(done, "corpus: exists, made by another recipe (bin_size_ms differ)")
    assert hashes(folder / "corpus") == before


def test_one_bad_recording_fails_alone_by_name(recordings, tmp_path, write_nwb, run_here):
    shutil.copytree(recordings / "nwb", tmp_path / "nwb")
    write_nwb(tmp_path / "nwb" / "b.nwb", [[0.25, 0.5]])  # without a velocity
    done = run_here(tmp_path, f"source={tmp_path}/nwb", f"out={tmp_path}/corpus")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    failures = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failures) == 1
    assert failures[0].startswith("failed: b.nwb: no covariates at processing/behavior")
    assert "warning: left out b.nwb: no covariates" in done.stderr
    manifest = read_manifest(str(tmp_path / "corpus"))
    assert [s.source for s in manifest.sessions] == ["a.nwb", "c.nwb"]
    assert [f.source for f in manifest.failed] == ["b.nwb"]
    assert str(tmp_path) not in manifest.failed[0].error
    assert verify_corpus(str(tmp_path / "corpus")) == []

    again = run_here(
        tmp_path, f"source={tmp_path}/nwb", f"out={tmp_path}/corpus", "--allow-failures", "1"
    )
    assert again.returncode == 0, again.stderr
    assert "left out b.nwb" in again.stderr
    assert read_manifest(str(tmp_path / "corpus")) == manifest


def test_when_every_window_is_rejected_there_is_no_corpus(tmp_path, write_nwb, run_here):
    write_nwb(tmp_path / "nwb" / "a.nwb", [[0.5, 1.5]], observed=(0.0, 3.0))
    rule = "splits=[{unit: s, intervals: {train: [1, 3]}}]"  # with a spike, but
    silent = "splits=[{unit: s, intervals: {train: [1.6, 3]}}]"  # shorter than a window
    good = recipe_of(tmp_path / "nwb", tmp_path / "good", "covariates.path=''", rule)
    assert session_task(good, b"", *find_recordings(good))["splits"] == [0]
    done = run_here(
        tmp_path, f"source={tmp_path}/nwb", f"out={tmp_path}/corpus", "covariates.path=''", silent
    )
    refused(done, "every window was rejected")
    assert "t-A-01: 0 train windows, 1 rejected" in done.stdout
    assert not (tmp_path / "corpus" / "manifest.json").exists()


def test_a_disk_without_room_for_the_shards_is_one_line_and_no_corpus(
    tmp_path, write_session, disk, run_here
):
    write_session(tmp_path / "nwb" / "a.nwb", seed=0, seconds=60.0)  # a spool of 100 kB
    out = disk(160) / "corpus"
    done = run_here(tmp_path, f"source={tmp_path}/nwb", f"out={out}")
    refused(done, "no room on the disk of", "MB free")
    assert (out / "spool").is_dir()
    assert not (out / "manifest.json").exists()
    assert not [p for p in out.rglob("*") if p.name.endswith(".tmp")]


@pytest.mark.parametrize("foreseen", [True, False])
def test_a_disk_without_room_for_a_spool_ends_the_job(
    tmp_path, write_session, disk, without_ray, monkeypatch, foreseen
):
    """Whether the check beforehand sees it, or another program takes the room meanwhile."""
    write_session(tmp_path / "nwb" / "a.nwb", seed=0, seconds=60.0)
    out = disk(64) / "corpus"
    if not foreseen:
        monkeypatch.setattr(storage, "check_room", lambda *_: None)
    with pytest.raises(NoRoom, match="no room on the disk of"):
        job.prepare(recipe_of(tmp_path / "nwb", out))
    assert [p.name for p in out.rglob("*") if p.is_file()] == ["recipe.json"]


def test_an_unknown_recipe_key_is_refused_with_the_nearest_name(recordings, tmp_path):
    refused(
        run_program(recordings, "source=nwb", f"out={tmp_path}/c", "bin_size=20"), "bin_size_ms"
    )
    assert not (tmp_path / "c").exists()


def test_a_recipe_value_of_the_wrong_type_is_refused_by_its_name(recordings, tmp_path):
    done = run_program(recordings, "source=nwb", f"out={tmp_path}/c", "bin_size_ms=fast")
    refused(done, "bin_size_ms", "fast")
    assert not (tmp_path / "c").exists()


def test_a_source_that_is_not_there_is_refused(recordings, tmp_path):
    refused(run_program(recordings, "source=absent", f"out={tmp_path}/c"), "source absent: no such")
    assert not (tmp_path / "c").exists()


def test_a_source_without_recordings_or_an_empty_out_is_refused(tmp_path):
    (tmp_path / "nwb").mkdir()
    with pytest.raises(BadInput, match=r"no file matches \*\*/\*\.nwb"):
        job.prepare(recipe_of(tmp_path / "nwb", tmp_path / "c"))
    with pytest.raises(BadInput, match="out is empty"):
        job.prepare(load_recipe(NWB_YAML, [f"source={tmp_path / 'nwb'}"]))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_output_that_is_no_corpus_is_refused_and_left_alone(recordings, tmp_path, kind):
    mine = tmp_path / "mine"
    if kind == "folder":
        mine.mkdir()
        mine /= "notes.txt"
    mine.write_text("notes")
    with pytest.raises(ManifestMismatch, match="exists and is not a corpus"):
        job.prepare(recipe_of(recordings / "nwb", tmp_path / "mine"))
    assert hashes(tmp_path) == {mine.relative_to(tmp_path).as_posix(): sha256_file(mine)}


def test_recordings_that_are_added_become_sessions_and_shards_behind_the_others(
    recordings, tmp_path, without_ray, capsys
):
    nwb = shutil.copytree(recordings / "nwb", tmp_path / "nwb")
    shutil.move(nwb / "a.nwb", tmp_path / "a.nwb")
    recipe = recipe_of(nwb, tmp_path / "corpus")
    first = job.prepare(recipe)
    old = hashes(tmp_path / "corpus" / "shards")
    shutil.move(tmp_path / "a.nwb", nwb / "a.nwb")
    second = job.prepare(recipe)
    assert [s.id for s in second.sessions] == ["t-A-c", "t-B-b", "t-A-a"]
    assert second.sessions[:2] == first.sessions
    assert second.shards[: len(first.shards)] == first.shards
    assert hashes(tmp_path / "corpus" / "shards").items() > old.items()
    assert verify_corpus(str(tmp_path / "corpus")) == []
    assert sum(s.samples for s in second.shards) == 18
    keys = {Corpus(str(tmp_path / "corpus")).key(n) for n in range(18)}
    assert len(keys) == 18
    (nwb / "b.nwb").unlink()
    capsys.readouterr()
    assert job.prepare(recipe) == second
    assert "1 recordings of the corpus are not in" in capsys.readouterr().out


def test_a_second_run_after_a_failure_neither_crashes_on_it_nor_calls_it_complete(
    recordings, tmp_path, without_ray, capsys
):
    nwb = shutil.copytree(recordings / "nwb", tmp_path / "nwb")
    (nwb / "d.nwb").symlink_to(nwb / "gone.nwb")
    recipe = recipe_of(nwb, tmp_path / "corpus")
    for _ in range(2):
        manifest = job.prepare(recipe)
        assert [f.source for f in manifest.failed] == ["d.nwb"]
        assert len(manifest.sessions) == 3
        assert "failed: d.nwb: " in capsys.readouterr().err
    (nwb / "d.nwb").unlink()
    assert job.prepare(recipe).failed == []
    job.prepare(recipe)
    assert "complete already" in capsys.readouterr().out


def test_a_changed_recording_is_refused_and_rebuilt_on_request(
    recordings, tmp_path, without_ray, write_session
):
    nwb = shutil.copytree(recordings / "nwb", tmp_path / "nwb")
    before = job.prepare(recipe_of(nwb, tmp_path / "corpus"))
    held = hashes(tmp_path / "corpus")
    write_session(nwb / "a.nwb", seed=9)
    with pytest.raises(ManifestMismatch, match=r"a\.nwb changed since the corpus was made"):
        job.prepare(recipe_of(nwb, tmp_path / "corpus"))
    assert hashes(tmp_path / "corpus") == held
    (nwb / "c.nwb").unlink()
    after = job.prepare(recipe_of(nwb, tmp_path / "corpus", "rebuild=true"))
    assert after.fingerprint != before.fingerprint
    assert after.named("t-A-a").source_sha256 == sha256_file(nwb / "a.nwb")
    fresh = job.prepare(recipe_of(nwb, tmp_path / "fresh"))
    assert after.sessions == fresh.sessions
    assert [s.sha256 for s in after.shards] == [s.sha256 for s in fresh.shards]
    named = {s.name for s in after.shards}  # new names: the old ones stay until the manifest is new
    assert not named & {s.name for s in before.shards}
    assert {p.name.split(".")[0] for p in (tmp_path / "corpus" / "shards").iterdir()} == named


def test_recordings_that_claim_one_session_fail_by_name_and_the_rest_is_kept(
    tmp_path, without_ray, write_session
):
    for number, name in enumerate("abc"):
        session = "02" if name == "c" else "01"
        write_session(tmp_path / "nwb" / f"{name}.nwb", seed=number, session=session)
    recipe = recipe_of(tmp_path / "nwb", tmp_path / "corpus")
    manifest = job.prepare(recipe)
    assert [s.id for s in manifest.sessions] == ["t-A-02"]
    assert [f.source for f in manifest.failed] == ["a.nwb", "b.nwb"]
    assert manifest.failed[0].error.startswith("is session t-A-01, as b.nwb is; give the files")
    assert verify_corpus(str(tmp_path / "corpus")) == []

    # One of them is put right, and one comes that claims a session of the corpus.
    write_session(tmp_path / "nwb" / "b.nwb", seed=1, session="03")
    write_session(tmp_path / "nwb" / "d.nwb", seed=3, session="02")
    manifest = job.prepare(recipe)
    assert [s.id for s in manifest.sessions] == ["t-A-02", "t-A-01", "t-A-03"]
    assert [f.source for f in manifest.failed] == ["d.nwb"]
    assert "is session t-A-02, as c.nwb is" in manifest.failed[0].error


def test_files_that_hold_one_session_id_are_told_apart_by_their_names_on_request(
    tmp_path, without_ray, write_session
):
    for number, name in enumerate(("sub-A_ses-01", "sub-A_ses-02", "late")):
        write_session(tmp_path / "nwb" / f"{name}.nwb", seed=number, session="day")
    with pytest.raises(BadInput, match="say session_from=file_name where their names have them"):
        job.prepare(recipe_of(tmp_path / "nwb", tmp_path / "c"))
    recipe = recipe_of(tmp_path / "nwb", tmp_path / "by_name", "session_from=file_name")
    manifest = job.prepare(recipe)
    assert manifest.failed == []
    assert [s.id for s in manifest.sessions] == ["t-A-01", "t-A-02", "t-A-late"]
    for seed, part in enumerate(("dry", "wet")):  # of one session: no name tells them apart
        write_session(tmp_path / "nwb" / f"sub-A_ses-03_{part}.nwb", seed=8 + seed)
    failed = job.prepare(recipe).failed
    assert [f.source for f in failed] == ["sub-A_ses-03_dry.nwb", "sub-A_ses-03_wet.nwb"]
    assert "session_from" not in failed[0].error
    with pytest.raises(ManifestMismatch, match=r"another recipe .session_from differ"):
        job.prepare(recipe_of(tmp_path / "nwb", tmp_path / "by_name"))


def test_every_window_is_dealt_to_one_shard_of_its_split(recordings, tmp_path):
    rule = "splits=[{intervals: {train: [0, 0.5], test: [0.5, 1]}}]"
    recipe = recipe_of(recordings / "nwb", tmp_path / "c", rule)
    spools = [session_task(recipe, b"", source) for source in find_recordings(recipe)]
    plans = plan_shards(spools, recipe)
    dealt = [w for plan in plans for w in plan.samples]
    assert len(dealt) == len(set(dealt)) == sum(len(s["splits"]) for s in spools) == 18
    assert [p.name for p in plans] == [f"{n:06d}" for n in range(len(plans))]
    for plan in plans:
        splits = {spools[n]["splits"][record] for n, record in plan.samples}
        assert splits == {("train", "val", "calibration", "test").index(plan.split)}
    assert len({n for n, _ in plans[0].samples}) > 1  # sessions are mixed


def test_a_spool_that_changed_since_it_was_written_is_refused(recordings, tmp_path, without_ray):
    recipe = recipe_of(recordings / "nwb", tmp_path / "c")
    spool = session_task(recipe, b"", find_recordings(recipe)[0])
    tar = Path(spool["base"] + ".tar")
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    with pytest.raises(ShardCorrupt, match="changed since it was written"):
        job.run_shards(recipe, plan_shards([spool], recipe), without_ray, Lease(recipe.out))


def test_a_recipe_that_is_broken_json_in_the_output_is_named(recordings, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "recipe.json").write_text(json.dumps({"version": 1})[:-1])
    with pytest.raises(BadInput, match=r"recipe\.json: not valid JSON"):
        job.prepare(recipe_of(recordings / "nwb", tmp_path / "c"))


def test_a_dry_run_lists_what_would_be_read_and_writes_nothing(recordings, tmp_path, write_nwb):
    shutil.copytree(recordings / "nwb", tmp_path / "nwb")
    write_nwb(tmp_path / "nwb" / "d.nwb", [[0.25, 0.5]])  # without a velocity
    done = run_program(tmp_path, "source=nwb", "out=corpus", "--dry-run")
    assert done.returncode == 1, done.stderr  # as the job would end
    allowed = run_program(tmp_path, "source=nwb", "--dry-run", "--allow-failures", "1")
    assert (allowed.returncode, allowed.stdout) == (0, done.stdout)
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "t-A-a" in rows["a.nwb"]
    assert rows["a.nwb"].split()[-1] == "6"
    assert "no covariates at processing/behavior" in rows["d.nwb"]
    assert "4 recordings, " in done.stdout
    assert "at most 18 windows, 1 broken" in done.stdout
    assert not (tmp_path / "corpus").exists()
