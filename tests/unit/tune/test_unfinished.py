"""A fine-tune that is killed goes on with the same command, to the same numbers."""

import fcntl

import pytest

from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.errors import CheckpointCorrupt, ResumeMismatch
from ndt3_dist.tune import finetune as program
from ndt3_dist.tune import unfinished
from ndt3_dist.tune.finetune import finetune
from ndt3_dist.tune.tune_config import TuneConfig

STEPS = 8


class Killed(Exception):
    """In place of SIGKILL."""


def tune(corpus, folder, *overrides):
    small = ["model.layers=1", "model.dim=64", "model.heads=2", "model.feedforward=64"]
    small += [f"train.steps={STEPS}", "train.batch=2", "train.eval_every=3", "optim.lr=3e-3"]
    small += ["data.fit=calibration", f"data.corpus={corpus}", f"run.dir={folder}", "run.name=r"]
    return load_config(TuneConfig, PROJECT / "configs" / "stevenson.yaml", [*small, *overrides])


@pytest.fixture
def kill_at(monkeypatch):
    """Arranges that the given step, counted over both stages, is the last that begins.

    Returns:
        The steps that were begun since.
    """
    real = program.draw_windows

    def arrange(last: int) -> list[int]:
        begun: list[int] = []

        def draw(*arguments):
            if len(begun) == last:
                raise Killed
            begun.append(1)
            return real(*arguments)

        monkeypatch.setattr(program, "draw_windows", draw)
        return begun

    return arrange


def everything(run) -> dict[str, bytes]:
    """Files of a run but its settings, in which its folder differs."""
    files = [p for p in run.rglob("*") if p.is_file() and p != run / "config.json"]
    return {str(p.relative_to(run)): p.read_bytes() for p in files}


@pytest.mark.parametrize(
    ("options", "kills"),
    [
        (["train.precision=fp32"], [5, 1]),
        (["train.precision=bf16", "train.refit=true"], [4, 6, 2]),
        (["lora.rank=2", "train.refit=true"], [STEPS + 2]),
        (["train.patience=4", "train.eval_every=1", "optim.lr=1", "optim.warmup_epochs=0"], [3]),
    ],
)
def test_numbers_are_those_of_a_run_that_was_left_alone(
    corpus, tmp_path, monkeypatch, kill_at, options, kills
):
    first = finetune(tune(corpus, tmp_path / "first"), None)["export"]
    whole = finetune(tune(corpus, tmp_path / "whole", *options), first)
    monkeypatch.setattr(unfinished, "EVERY_S", 0.0)
    config, made = tune(corpus, tmp_path / "killed", *options), 0
    for last in kills:
        begun = kill_at(last)
        with pytest.raises(Killed):
            finetune(config, first)
        made += len(begun)
    left = kill_at(1000)
    again = finetune(config, first)
    lines = sum(
        len((tmp_path / "whole" / "r" / name).read_text().splitlines())
        for name in ("metrics.jsonl", *(["refit.jsonl"] if "train.refit=true" in options else []))
    )
    assert made + len(left) == lines  # no step was made twice
    assert {k: again[k] for k in ("best_step", "r2_val")} == {
        k: whole[k] for k in ("best_step", "r2_val")
    }
    assert everything(tmp_path / "killed" / "r") == everything(tmp_path / "whole" / "r")


def test_steps_behind_the_last_saving_are_made_again(corpus, tmp_path, monkeypatch, kill_at):
    finetune(tune(corpus, tmp_path / "whole"), None)
    monkeypatch.setattr(unfinished, "EVERY_S", 0.0)
    real = unfinished.Unfinished.save
    monkeypatch.setattr(
        unfinished.Unfinished, "save", lambda self, o, step, *a: step % 2 or real(self, o, step, *a)
    )
    kill_at(5)
    with pytest.raises(Killed):
        finetune(tune(corpus, tmp_path / "killed"), None)
    left = kill_at(1000)
    finetune(tune(corpus, tmp_path / "killed"), None)
    assert len(left) == STEPS - 4
    assert everything(tmp_path / "killed" / "r") == everything(tmp_path / "whole" / "r")


def test_what_was_not_saved_begins_again(corpus, tmp_path, kill_at):
    config = tune(corpus, tmp_path)
    kill_at(5)
    with pytest.raises(Killed):
        finetune(config, None)
    assert not (tmp_path / "r" / "state.safetensors").exists()  # short ones save nothing
    begun = kill_at(1000)
    finetune(config, None)
    assert len(begun) == len((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()) == STEPS


def test_only_the_same_run_goes_on(corpus, tmp_path, kill_at, monkeypatch):
    monkeypatch.setattr(unfinished, "EVERY_S", 0.0)
    config, run = tune(corpus, tmp_path), tmp_path / "r"
    other = finetune(tune(corpus, tmp_path / "other"), None)["export"]
    kill_at(5)
    with pytest.raises(Killed):
        finetune(config, None)
    before = everything(run)
    with pytest.raises(ResumeMismatch, match=r"begun with other settings \(optim differ\)"):
        finetune(tune(corpus, tmp_path, "optim.lr=1e-3"), None)
    with pytest.raises(ResumeMismatch, match=r"\(begun differ\)"):
        finetune(config, other)
    with pytest.raises(ResumeMismatch, match=r"\(begun differ\)"):
        finetune(config, None, scratch=True)
    with (run / ".lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ResumeMismatch, match="another process is at work on it"):
            finetune(config, None)
    assert everything(run) == before
    state = run / "state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(CheckpointCorrupt, match=r"state\.safetensors: cannot be read .*remove it"):
        finetune(config, None)
    state.unlink()
    kill_at(1000)
    finetune(config, None)
    with pytest.raises(ResumeMismatch, match="the run exists"):
        finetune(config, None)
    assert not state.exists()
