"""A loss that is no number: skipped alike by all ranks, told by name, and the end if it stays."""

import json
import math
import shutil

import torch
from launching import losses
from ranks import run_ranks

from ndt3_dist.checkpoint.steps import delete_step, open_step
from ndt3_dist.train.run_metrics import read_metrics


def test_a_nan_of_one_rank_is_skipped_by_all_and_named(corpus, tmp_path):
    nan = "position in (0, 12)"  # the first and the fourth step
    extra = ["train.precision=fp32", "checkpoint.every_steps=1", "checkpoint.keep_last=20"]
    code, log = run_ranks(tmp_path, corpus, extra=extra, nan_where=nan)
    assert code == 0, log
    found = losses(tmp_path)
    for step in (1, 4):
        said = f"step {step} is skipped, no weight moves: the loss is not finite in micro-batch 1 ("
        assert log.count(f"{said}rank 1)") == 1
        assert math.isnan(found.pop(step))
    steps = {step: open_step(tmp_path / "r", step) for step in (1, 2, 3, 4, 5)}
    assert [s.meta["adam_step"] for s in steps.values()] == [0, 1, 2, 2, 3]
    assert [s.meta["skipped"] for s in steps.values()] == [1, 0, 0, 1, 0]
    for kind, tensor in steps[4].read("sos", 0, 64).items():
        assert torch.equal(tensor, steps[3].read("sos", 0, 64)[kind])
    assert all(map(math.isfinite, found.values()))
    assert found[12] < found[2]  # it goes on learning
    lines = (tmp_path / "r" / "metrics.jsonl").read_text()
    assert "NaN" not in lines
    assert json.loads(lines.splitlines()[3])["loss"] is None


def test_after_too_many_the_run_goes_back_and_on_with_the_data_that_follows(corpus, tmp_path):
    nan = "24 <= position <= 32"  # steps 7 to 9
    extra = ["train.max_skipped=2", "checkpoint.every_steps=5"]
    code, log = run_ranks(tmp_path, corpus, extra=extra, nan_where=nan)
    assert code == 0, log
    assert (
        "3 steps in a row, the last of them 9, had no finite loss and gradient: back to the "
        "weights of step 5, on with the data that follows (1 of 1 times)"
    ) in log
    lines = read_metrics(tmp_path / "r")
    assert [m["position"] for m in lines] == list(range(0, 48, 4))
    saved = {step: open_step(tmp_path / "r", step).meta for step in (5, 10, 12)}
    assert [m["adam_step"] for m in saved.values()] == [5, 6, 8]
    assert [m["rolled_back"] for m in saved.values()] == [0, 1, 1]
    # Killed before the next checkpoint, it finds the same way again.
    shutil.copytree(tmp_path / "r", tmp_path / "again" / "r")
    for step in (10, 12):
        delete_step(tmp_path / "again" / "r", step)
    code, log = run_ranks(tmp_path / "again", corpus, extra=extra, resume="auto", nan_where=nan)
    assert code == 0, log
    found = losses(tmp_path / "again")
    assert [found[s] for s in (6, 10, 12)] == [losses(tmp_path)[s] for s in (6, 10, 12)]


def test_a_run_whose_weights_stay_where_they_are_says_so(corpus, tmp_path):
    still = ["optim.lr=1e-300", "optim.lr_min=0", "log.every_steps=5", "train.max_steps=11"]
    code, log = run_ranks(tmp_path, corpus, extra=still)
    assert code == 0, log
    assert log.count("no weight has moved since step 0: look at optim.lr (") == 2, log


def test_a_loss_that_stays_away_ends_the_run_with_its_weights(corpus, tmp_path):
    extra = ["optim.lr=1e30", "train.max_skipped=2", "checkpoint.every_steps=1000"]
    code, log = run_ranks(tmp_path, corpus, extra=extra)
    assert code != 0
    assert log.count("error: 3 steps in a row") == 1
    assert "Traceback" not in log
    metrics = read_metrics(tmp_path / "r")
    assert [math.isfinite(m["loss"]) for m in metrics[-3:]] == [False] * 3
