"""Where a preparation runs: in this process, on a Ray of our own, on a cluster."""

import os
import signal
import sys

import pytest
from pydantic import ValidationError

from ndt3_dist.errors import BadInput
from ndt3_dist.prep import job
from ndt3_dist.prep.pool import ray_pool
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.recordings import RecordingFile
from ndt3_dist.prep.workers import LEAST_BYTES, SMALL_BYTES, own_process, with_address, workers

HEAD = "10.0.0.1:6379"


@pytest.mark.parametrize(
    ("asked", "variable", "address", "said"),
    [
        ({}, "", "local", ""),
        ({}, "local", "local", ""),
        ({}, HEAD, HEAD, f"on the cluster of RAY_ADDRESS, {HEAD}; ray_address=local"),
        ({"ray_address": "local"}, HEAD, "local", ""),
        ({"ray_address": "auto"}, HEAD, "auto", ""),
        ({"ray_address": "10.0.0.2:1"}, HEAD, "10.0.0.2:1", ""),
        ({"num_workers": 1}, HEAD, "local", "left aside: num_workers=1 is of this machine"),
        ({"num_workers": 0}, HEAD, "local", "left aside: num_workers=0 is of this machine"),
        ({"num_workers": 2}, "", "local", ""),
    ],
)
def test_ray_address_names_the_cluster_where_nothing_else_is_asked_for(
    monkeypatch, capsys, asked, variable, address, said
):
    monkeypatch.setenv("RAY_ADDRESS", variable)
    assert with_address(Recipe(dataset="t", **asked)).ray_address == address
    out = capsys.readouterr().out
    assert said in out
    assert len(out.splitlines()) == bool(said)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8265", "ray://head:10001"])
def test_a_url_for_jobs_is_no_cluster_and_one_line_says_so(tmp_path, monkeypatch, url):
    monkeypatch.setenv("RAY_ADDRESS", url)
    with pytest.raises(BadInput, match=f"RAY_ADDRESS {url}: expected HOST:PORT.*job submit"):
        job.prepare(Recipe(dataset="t", source=str(tmp_path), out=str(tmp_path / "c")))
    assert list(tmp_path.iterdir()) == []


def files(*sizes: float) -> list[RecordingFile]:
    return [RecordingFile(f"{n}.nwb", f"{n}.nwb", int(size)) for n, size in enumerate(sizes)]


def test_small_recordings_are_prepared_here_and_others_by_a_worker_for_each_core():
    recipe = Recipe(dataset="t")
    assert isinstance(workers(recipe, files(1e6, SMALL_BYTES - 1e6 - 1)), own_process)
    large = workers(recipe, files(1e6, SMALL_BYTES - 1e6))
    assert isinstance(large, ray_pool)
    assert large.workers == min(os.cpu_count() or 1, 2)
    many = files(*[10] * (SMALL_BYTES // LEAST_BYTES))
    assert isinstance(workers(recipe, many[1:]), own_process)
    assert isinstance(workers(recipe, many), ray_pool)


@pytest.mark.parametrize("number", [1, 8])
def test_a_number_of_workers_is_a_ray_however_small_the_recordings(number):
    pool = workers(Recipe(dataset="t", num_workers=number), files(1))
    assert isinstance(pool, ray_pool)
    assert pool.workers == number


def test_zero_workers_are_this_process_however_large_and_no_cluster():
    assert isinstance(workers(Recipe(dataset="t", num_workers=0), files(1e12)), own_process)
    assert isinstance(workers(Recipe(dataset="t", ray_address=HEAD), files(1)), ray_pool)
    with pytest.raises(ValidationError, match=f"this process alone, and ray_address {HEAD}"):
        Recipe(dataset="t", num_workers=0, ray_address=HEAD)


def prepare(folder, write_session, **recipe):
    for number, name in enumerate("abc"):
        write_session(folder / "nwb" / f"{name}.nwb", seed=number, session=name)
    places = {"source": str(folder / "nwb"), "out": str(folder / "c")}
    return job.prepare(Recipe(dataset="t", num_workers=0, **places, **recipe))


@pytest.mark.parametrize(
    ("number", "error"), [("SIGTERM", SystemExit), ("SIGINT", KeyboardInterrupt)]
)
def test_a_signal_ends_the_job_gives_the_output_back_and_keeps_what_is_done(
    tmp_path, monkeypatch, write_session, number, error
):
    task, seen = job.session_task, []

    def ended_at_the_second(recipe, key, source, *rest):
        seen.append(source.name)
        if len(seen) == 2:
            os.kill(os.getpid(), getattr(signal, number))
        return task(recipe, key, source, *rest)

    monkeypatch.setattr(job, "session_task", ended_at_the_second)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(error):
        prepare(tmp_path, write_session)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "c" / "job.json").exists()
    assert len(list((tmp_path / "c" / "spool").glob("*.json"))) == 1
    assert len(prepare(tmp_path, write_session).sessions) == 3


def test_a_recording_that_fails_in_this_process_fails_alone_by_name(
    tmp_path, monkeypatch, write_session, capsys
):
    """Whatever error it is: the others are prepared, and Ray is not even imported."""
    task = job.session_task

    def failing(recipe, key, source, *rest):
        if source.name == "b.nwb":
            raise ZeroDivisionError("in a function of one's own")
        return task(recipe, key, source, *rest)

    monkeypatch.setattr(job, "session_task", failing)
    monkeypatch.setitem(sys.modules, "ray", None)
    manifest = prepare(tmp_path, write_session)
    assert [s.source for s in manifest.sessions] == ["a.nwb", "c.nwb"]
    assert [f.source for f in manifest.failed] == ["b.nwb"]
    assert "failed: b.nwb: " in capsys.readouterr().err
