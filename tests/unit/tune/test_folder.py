"""A fine-tune that is killed goes on with the same command, to the same numbers."""

import fcntl
import json
import os
import signal
import time

import pytest

from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.errors import Diverged, ResumeMismatch
from ndt3_dist.train.run_metrics import read_metrics
from ndt3_dist.train.saving import Saving
from ndt3_dist.tune import alone, draws
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
    real = draws.draw_windows

    def arrange(last: int) -> list[int]:
        begun: list[int] = []

        def draw(*arguments):
            if len(begun) == last:
                raise Killed
            begun.append(1)
            return real(*arguments)

        monkeypatch.setattr(draws, "draw_windows", draw)
        return begun

    return arrange


TIMES = {"step_s", "wait_s", "tflops", "memory_gb", "val_s"}
"""Of a line of metrics, which no two runs share."""


def everything(run) -> dict[str, object]:
    """Files of a run but its settings, in which its folder differs, and times."""
    found: dict[str, object] = {}
    for path in (p for p in run.rglob("*") if p.is_file() and p != run / "config.json"):
        found[str(path.relative_to(run))] = path.read_bytes()
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            told = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
            found[str(path.relative_to(run))] = told
    return found


def lines_of(run) -> int:
    return sum(len(p.read_text().splitlines()) for p in run.rglob("metrics.jsonl"))


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
    monkeypatch.setattr(alone, "SAVE_EVERY_S", 0.0)
    config, made = tune(corpus, tmp_path / "killed", *options), 0
    for last in kills:
        begun = kill_at(last)
        with pytest.raises(Killed):
            finetune(config, first)
        made += len(begun)
    left = kill_at(1000)
    again = finetune(config, first)
    assert made + len(left) == lines_of(tmp_path / "whole" / "r")  # no step was made twice
    assert {k: again[k] for k in ("best_step", "r2_val")} == {
        k: whole[k] for k in ("best_step", "r2_val")
    }
    assert everything(tmp_path / "killed" / "r") == everything(tmp_path / "whole" / "r")


def test_steps_behind_the_last_checkpoint_are_made_again(corpus, tmp_path, monkeypatch, kill_at):
    finetune(tune(corpus, tmp_path / "whole"), None)
    monkeypatch.setattr(Saving, "is_due", lambda self, state: state.step % 2 == 0)
    kill_at(5)
    with pytest.raises(Killed):
        finetune(tune(corpus, tmp_path / "killed"), None)
    left = kill_at(1000)
    finetune(tune(corpus, tmp_path / "killed"), None)
    assert len(left) == STEPS - 4
    assert everything(tmp_path / "killed" / "r") == everything(tmp_path / "whole" / "r")


def test_one_that_is_asked_to_stop_saves_and_goes_on(corpus, tmp_path, monkeypatch):
    finetune(tune(corpus, tmp_path / "whole"), None)
    config, real = tune(corpus, tmp_path / "stopped"), draws.draw_windows
    begun = []

    def draw(*arguments):
        begun.append(1)
        if len(begun) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1.5)
        return real(*arguments)

    monkeypatch.setattr(draws, "draw_windows", draw)
    found = finetune(config, None)
    assert "SIGTERM" in found["stopped"]
    assert found["export"] == ""
    assert not (tmp_path / "stopped" / "r" / "export").exists()
    assert finetune(config, None)["stopped"] == ""
    assert lines_of(tmp_path / "stopped" / "r") == STEPS
    assert everything(tmp_path / "stopped" / "r") == everything(tmp_path / "whole" / "r")


def test_losses_that_are_no_numbers_end_it_after_some(corpus, tmp_path, monkeypatch):
    real, begun = draws.draw_windows, []

    def draw(*arguments):
        arrays, starts = real(*arguments)
        begun.append(1)
        if len(begun) > 2:
            arrays["covariates"][:] = float("nan")
        return arrays, starts

    monkeypatch.setattr(draws, "draw_windows", draw)
    with pytest.raises(Diverged, match="3 steps in a row, the last of them 5, had no finite"):
        finetune(tune(corpus, tmp_path, "train.max_skipped=2", "train.eval_every=8"), None)
    assert len(begun) == 5


def test_what_was_not_saved_begins_again(corpus, tmp_path, kill_at):
    config = tune(corpus, tmp_path)
    kill_at(5)
    with pytest.raises(Killed):
        finetune(config, None)
    assert not (tmp_path / "r" / "steps").exists()  # short ones save nothing
    begun = kill_at(1000)
    finetune(config, None)
    assert len(begun) == lines_of(tmp_path / "r") == STEPS


def test_only_the_same_run_goes_on(corpus, tmp_path, kill_at, monkeypatch):
    monkeypatch.setattr(alone, "SAVE_EVERY_S", 0.0)
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
    (newest,) = (run / "steps").glob("*/rank*.safetensors")
    newest.write_bytes(newest.read_bytes()[:100])  # damaged: begun anew
    left = kill_at(1000)
    finetune(config, None)
    assert len(left) == STEPS
    with pytest.raises(ResumeMismatch, match="the run exists"):
        finetune(config, None)
    assert not (run / "steps").exists()


def test_one_that_stops_behind_a_step_goes_on_to_the_same_numbers(corpus, tmp_path):
    whole = finetune(tune(corpus, tmp_path, "run.name=whole"), None)
    config = tune(corpus, tmp_path, "run.name=cut")
    first = finetune(config, None, until=2)
    assert "step 2" in first["stopped"]
    assert [m["step"] for m in read_metrics(tmp_path / "cut")] == [1, 2]
    assert not (tmp_path / "cut" / "export").exists()
    assert finetune(config, None, until=2)["stopped"]  # it is there already
    last = finetune(config, None)
    assert last["r2_val"] == whole["r2_val"]
    logs = [[m["loss"] for m in read_metrics(tmp_path / name)] for name in ("whole", "cut")]
    assert logs[0] == logs[1]
