"""Jobs of a folder of configs: what is submitted, and what is refused before anything is."""

import pytest
from launching import ROOT

from ndt3_dist.cluster.submit import Job, jobs, submit
from ndt3_dist.errors import BadInput, ClusterFailed

DEMO = (ROOT / "configs" / "demo.yaml").read_text()


@pytest.fixture
def folder(tmp_path):
    """Three configs with a run each."""
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.yaml").write_text(DEMO.replace("name: demo", f"name: run_{name}"))
    (tmp_path / "notes.txt").write_text("not a config")
    return tmp_path


def test_each_config_of_a_folder_is_a_job(folder):
    found = jobs(folder, ["train.max_steps=3"], ["--partition=gpu"])
    assert [job.run for job in found] == ["runs/run_a", "runs/run_b", "runs/run_c"]
    start = ["sbatch", "--parsable", "--job-name=run_a", "--partition=gpu"]
    end = ["--config", str(folder / "a.yaml"), "train.max_steps=3"]
    assert found[0].command == [*start, str(ROOT / "launch" / "slurm.sbatch"), *end]
    (one,) = jobs(folder / "b.yaml", [], [])
    assert one.run == "runs/run_b"


def test_nothing_is_submitted_where_one_config_is_wrong(folder, tmp_path):
    with pytest.raises(BadInput, match=r"a\.yaml have one run, runs/x; .*c\.yaml and .*b\.yaml"):
        jobs(folder, ["run.name=x"], [])
    (folder / "b.yaml").write_text(DEMO.replace("global_batch", "globalbatch"))
    with pytest.raises(BadInput, match=r"b\.yaml: .*did you mean global_batch"):
        jobs(folder, [], [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"empty: has no \*\.yaml"):
        jobs(tmp_path / "empty", [], [])
    with pytest.raises(BadInput, match="absent: no such file or folder"):
        jobs(tmp_path / "absent", [], [])
    with pytest.raises(BadInput, match="--template absent: no such file"):
        jobs(folder, [], [], template=tmp_path.__class__("absent"))


def test_what_sbatch_refuses_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterFailed, match="no sbatch on this host"):
        submit(Job("runs/a", ["sbatch"]))
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 'invalid partition' >&2; exit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    with pytest.raises(ClusterFailed, match="refused the job of runs/a: invalid partition"):
        submit(Job("runs/a", ["sbatch"]))
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho '17;here'\n")
    assert submit(Job("runs/a", ["sbatch"])) == "17"
