"""The Ray that tasks run on: who reaches ours, what a bad address says, what a lost host costs."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from pools import pool_of

from ndt3_dist.errors import BadInput, ClusterFailed
from ndt3_dist.prep import job
from ndt3_dist.prep import pool as pools
from ndt3_dist.prep.pool import ray_pool
from ndt3_dist.prep.recipe import Recipe

LISTENERS = """
import json, os, psutil
from ndt3_dist.prep.pool import ray_pool
from ndt3_dist.prep.recipe import Recipe

def task(number):
    return number * number

def listeners(process):
    try:
        return [c.laddr.ip for c in process.net_connections("inet") if c.status == "LISTEN"]
    except psutil.NoSuchProcess:
        return []

with (pool := ray_pool(Recipe(dataset="t", num_workers=1), 1)) as run_all:
    done = list(run_all(task, [(3,)]))
    mode = os.stat(pool.folder).st_mode & 0o777
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [ip for process in family for ip in listeners(process)]
print(json.dumps([done, found, pool.folder, mode, os.path.exists(pool.folder)]))
"""


def run(code: str, *words: str, **environment: str) -> list:
    """What a Python program prints last; Ray stays away from this test's own process."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_ours_listens_on_the_loopback_address_alone_and_is_no_other(tmp_path):
    """Not even where a variable names a cluster; its sockets lie in a short, private folder."""
    long = tmp_path / ("x" * 110)
    long.mkdir()
    done, found, folder, mode, left = run(LISTENERS, RAY_ADDRESS="192.0.2.1:6379", TMPDIR=str(long))
    assert done == [[0, 9]]
    assert (Path(folder).parent, mode, left) == (Path("/tmp"), 0o700, False)
    assert len(found) >= 4  # Ray's two servers, a worker and the driver
    assert {ip.removeprefix("::ffff:") for ip in found} == {"127.0.0.1"}


def test_a_task_that_the_cluster_gave_up_ends_the_job_and_one_that_kills_its_worker_does_not():
    from ray.exceptions import NodeDiedError, WorkerCrashedError

    def pool_that_gets(error):
        def get(_):
            raise error

        pool = ray_pool(Recipe(dataset="t"), 1)
        remote = SimpleNamespace(remote=lambda number: f"ref{number}")
        pool.ray = SimpleNamespace(
            remote=lambda **_: lambda task: remote,
            wait=lambda refs, num_returns: (refs, []),
            get=get,
        )
        return pool.run_all(print, [(0,)])

    crash = WorkerCrashedError()
    assert list(pool_that_gets(crash)) == [(0, crash)]
    with pytest.raises(ClusterFailed, match="run the same command again"):
        list(pool_that_gets(NodeDiedError("gone")))


@pytest.mark.parametrize(
    "error",
    [
        Exception("The current node\ntimed out during startup"),
        BlockingIOError(11, "Resource temporarily unavailable"),
        RuntimeError("Timed out waiting for file /tmp/x"),
        ValueError("Attempting to cap object store memory usage at 1 bytes"),
    ],
)
def test_a_ray_that_does_not_start_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, error):
    import ray

    def init(*_, **settings):
        Path(settings["_temp_dir"]).mkdir()
        raise error

    def end():
        raise OSError("no Ray to end")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", end)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(pools, "LONGEST_PLACE", 1000)
    with pytest.raises(ClusterFailed) as caught, ray_pool(Recipe(dataset="t"), 1):
        pass
    said = str(caught.value)
    assert said.startswith(f"Ray did not start ({' '.join(str(error).split())}); it needs")
    assert "open files" in said
    assert "num_workers=0" in said
    assert list(tmp_path.iterdir()) == []


def test_where_there_is_no_short_folder_or_no_loopback_address_ray_is_not_asked(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 110)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ClusterFailed, match=r"TMPDIR is /xxx.* set RAY_TMPDIR to a folder"):
        ray_pool(Recipe(dataset="t"), 1).__enter__()

    def unreachable(*_, **__):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(ClusterFailed, match=r"did not start .*Network is unreachable"):
        ray_pool(Recipe(dataset="t"), 1).__enter__()


def test_without_ray_installed_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterFailed, match=r"cannot be imported.*num_workers=0"):
        ray_pool(Recipe(dataset="t"), 1).__enter__()


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def refused(address: str) -> str:
    began = time.time()
    with (
        pytest.raises(ClusterFailed) as caught,
        ray_pool(Recipe(dataset="t", ray_address=address), 1),
    ):
        pass
    assert time.time() - began < 30
    return str(caught.value)


def test_an_address_without_a_cluster_is_refused_soon(closed_port, monkeypatch):
    assert "Connection refused" in refused(f"127.0.0.1:{closed_port}")
    assert "not HOST:PORT" in refused("ray://127.0.0.1:10001")
    assert "not HOST:PORT" in refused("head")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    assert "Connection refused" in refused("auto")


def test_a_cluster_of_another_version_is_one_line(monkeypatch):
    import ray

    def init(*_, **__):
        raise RuntimeError("Version mismatch: the cluster has\n    Ray: 2.9\nThis has\n    Ray: 3")

    monkeypatch.setattr(ray, "init", init)
    with socket.create_server(("127.0.0.1", 0)) as server:
        said = refused(f"127.0.0.1:{server.getsockname()[1]}")
    assert "(Version mismatch: the cluster has Ray: 2.9 This has Ray: 3)" in said
    assert "the same versions of Ray and Python" in said


def test_a_cluster_takes_no_relative_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for places in ({"source": "nwb", "out": "/c"}, {"source": "s3://b/nwb", "out": "c"}):
        recipe = Recipe(dataset="t", ray_address="auto", **places)
        with pytest.raises(BadInput, match="is relative, and each host of a cluster"):
            job.prepare(recipe)
    assert list(tmp_path.iterdir()) == []


def prepare_with(monkeypatch, run_all, folder: Path):
    monkeypatch.setattr(job, "workers", pool_of(run_all))
    recipe = Recipe(
        dataset="t", ray_address="auto", source=str(folder / "nwb"), out=str(folder / "c")
    )
    return job.prepare(recipe)


def test_hosts_that_share_no_source_end_the_job(tmp_path, monkeypatch, write_session):
    path = write_session(tmp_path / "nwb" / "a.nwb", seed=1)

    def elsewhere(task, arguments, shared=()):
        yield 0, FileNotFoundError(2, "No such file or directory", str(path))

    with pytest.raises(BadInput, match=r"a\.nwb: there on some hosts.* source= must be"):
        prepare_with(monkeypatch, elsewhere, tmp_path)
    assert not (tmp_path / "c" / "manifest.json").exists()


def test_hosts_that_share_no_out_end_the_job(tmp_path, monkeypatch, write_session, without_ray):
    write_session(tmp_path / "nwb" / "a.nwb", seed=1)

    def elsewhere(task, arguments, shared=()):
        for number, result in without_ray(task, arguments):
            for file in (tmp_path / "c" / "spool").iterdir():
                file.unlink()
            yield number, result

    with pytest.raises(BadInput, match=r"there on some hosts.* out= must be"):
        prepare_with(monkeypatch, elsewhere, tmp_path)


def test_tasks_are_handed_over_a_few_at_a_time_and_what_they_share_once(monkeypatch):
    monkeypatch.setattr(pools, "MOST_PENDING", 3)
    seen, stored = [], []
    pool = ray_pool(Recipe(dataset="t"), 1)

    def wait(refs, num_returns):
        seen.append(len(refs))
        return refs[-1:], refs[:-1]

    pool.ray = SimpleNamespace(
        put=lambda value: stored.append(value) or f"ref of {value}",
        remote=lambda **_: lambda task: SimpleNamespace(remote=lambda *args: args),
        wait=wait,
        get=lambda ref: ref,
    )
    done = dict(pool.run_all(print, [(n,) for n in range(10)], shared=("all",)))
    assert done == {n: (n, "ref of all") for n in range(10)}
    assert max(seen) == 3
    assert stored == ["all"]
