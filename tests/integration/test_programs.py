"""Programs meet bad input with one clear line and a non-zero exit, and leave nothing behind."""

import os
import runpy
import shutil
from pathlib import Path

import pytest
from forks import run_program as run
from refusals import refused

from ndt3_dist.config import PROJECT

PROGRAMS = sorted(
    p.relative_to(PROJECT).as_posix()
    for folder in ("data_prep", "launch", "checkpoints", "benchmarks")
    for p in (PROJECT / folder).glob("*.py")
    if "__main__" in p.read_text()
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_has_help_with_an_example(program):
    done = run(program, "--help")
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout


def test_pretrain_refuses_bad_configs_before_anything_is_written(tmp_path):
    def pretrain(*arguments):
        done = run("launch/pretrain.py", *arguments, f"run.dir={tmp_path}/runs", cwd=tmp_path)
        assert not list(tmp_path.iterdir())
        return done

    refused(pretrain("--config", "demo.yaml", "optim.learning_rate=1"), "optim.learning_rate")
    refused(pretrain("--config", "demo.yaml", "optim.lrr=1"), "did you mean lr?")
    refused(pretrain("--config", "demo.yaml", "train.epochs=many"), "train.epochs is 'many'")
    refused(pretrain("--config", "dem.yaml"), "no file dem.yaml", "nearest: demo.yaml")
    refused(pretrain("--config", "demo.yaml", "data.corpus=absent"), "absent", "no manifest.json")


def test_pretrain_prints_its_whole_config_without_touching_a_device():
    done = run("launch/pretrain.py", "--config", "big_350m_2kh.yaml", "--print-config")
    assert done.returncode == 0, done.stderr
    assert "global_batch: 3072" in done.stdout
    assert '"stage": 1' in done.stdout


def test_an_empty_corpus_is_refused(tmp_path, corpus):
    import shutil

    from ndt3_dist import storage
    from ndt3_dist.shards.manifest import fingerprint, read_manifest

    shutil.copytree(corpus, tmp_path / "c")
    manifest = read_manifest(corpus)
    print_ = fingerprint(manifest.sessions, [], manifest.bin_size_ms, manifest.window_bins)
    empty = manifest.model_copy(update={"shards": [], "fingerprint": print_})
    storage.write_json(tmp_path / "c" / "manifest.json", empty.model_dump(mode="json"))
    done = run("launch/pretrain.py", "--config", "demo.yaml", f"data.corpus={tmp_path}/c")
    refused(done, "no window in split train")


def test_export_of_a_run_without_checkpoints_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    out = tmp_path / "out"
    refused(run("checkpoints/convert.py", "export", tmp_path / "run", out), "no intact checkpoint")
    refused(run("checkpoints/convert.py", "export", tmp_path / "nope", out), "no such run folder")
    assert not out.exists()


def test_scores_that_are_not_known_are_null_in_json():
    plain = runpy.run_module("ndt3_dist.programs.evaluate")["_plain"]
    told = {"r2": float("nan"), "each": [0.5, float("inf")], "bins": 3, "name": "x", "none": None}
    assert plain([told]) == [{**told, "r2": None, "each": [0.5, None]}]


def test_finetune_evaluate_and_report_refuse_what_is_not_there(tmp_path, corpus):
    tune = ["launch/finetune.py", "--config", "tune_demo.yaml", f"run.dir={tmp_path}/runs"]
    refused(run(*tune, "--init", tmp_path, f"data.corpus={corpus}"), "no config.json, so no export")
    refused(run(*tune, f"data.corpus={corpus}"), "nothing to start from")
    refused(run(*tune, f"data.corpus={corpus}", "data.session=t-S-09"), "no session 't-S-09'")
    evaluate = ["launch/evaluate.py", "--model", tmp_path, "--corpus", corpus]
    refused(run(*evaluate, "--split", "val"), "no window in split val")
    refused(run(*evaluate, "--stride", "-1"), "--stride -1")
    refused(run("launch/report.py", tmp_path), "no config.yaml")
    assert not (tmp_path / "runs").exists()


def test_each_folder_of_runs_is_looked_through(tmp_path, corpus):
    words = ["data_prep/remove.py", corpus, "--session", "t-S-09"]
    for folders in (["rusn", tmp_path], [tmp_path, "rusn"]):
        given = [word for folder in folders for word in ("--runs", folder)]
        refused(run(*words, *given, cwd=tmp_path), "--runs rusn: no such folder")


def test_verify_programs_tell_sound_from_damaged(tmp_path, corpus):
    import shutil

    assert run("data_prep/verify.py", corpus).returncode == 0
    shutil.copytree(corpus, tmp_path / "c")
    shard = Path(tmp_path / "c" / "shards" / "000001.tar")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    done = run("data_prep/verify.py", tmp_path / "c")
    assert done.returncode == 1
    assert "000001.tar: its sha256 is not the manifest's" in done.stdout
    assert run("checkpoints/verify.py", tmp_path).returncode == 1


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden"])
def test_the_demo_refuses_names_that_are_no_folder_of_its_own(name):
    found = run("launch/demo.py", "--name", name)
    assert found.returncode == 1
    assert found.stderr.startswith(f"error: --name {name!r}")


def test_the_demo_removes_no_run_that_is_not_its_own():
    folder = PROJECT / "runs" / f"somebodys-run-in-test-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        (folder / "config.yaml").write_text("precious")
        found = run("launch/demo.py", "--name", folder.name)
        assert found.returncode == 1
        assert "is not a demo's" in found.stderr
        assert (folder / "config.yaml").read_text() == "precious"
        missing = run("launch/demo.py", "--recordings", "no-such.nwb")
        assert "no such file" in missing.stderr
    finally:
        shutil.rmtree(folder)
