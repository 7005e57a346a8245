"""A loss that is no number: skipped alike by all ranks, told by name, and the end if it stays."""

import json
import math

from launching import launch, losses

from ndt3_dist.train.metrics import read_metrics

BREAK = """
import builtins, os, sys
if os.environ.get("RANK") == "1":
    true = builtins.__import__
    def hook(*args, **kwargs):
        module = true(*args, **kwargs)
        stream = sys.modules.get("ndt3_dist.data.stream")
        if stream and hasattr(stream, "Stream") and not hasattr(stream.Stream, "whole"):
            stream.Stream.whole = stream.Stream._fill
            def fill(self, step, position):
                self.whole(step, position)
                if position == 12:  # the fourth step
                    step.batches[0][1]["covariates"][0] = float("nan")
            stream.Stream._fill = fill
        return module
    builtins.__import__ = hook
"""


def test_a_nan_of_one_rank_is_skipped_by_all_and_named(corpus, tmp_path, monkeypatch):
    (tmp_path / "break").mkdir()
    (tmp_path / "break" / "sitecustomize.py").write_text(BREAK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "break"))
    code, log = launch(tmp_path, corpus)
    assert code == 0, log
    said = "step 4 is skipped, no weight moves: the loss is not finite in micro-batch 1 (rank 1)"
    assert log.count(said) == 1
    found = losses(tmp_path)
    assert math.isnan(found.pop(4))
    assert all(map(math.isfinite, found.values()))
    assert found[12] < found[1]  # it goes on learning
    lines = (tmp_path / "r" / "metrics.jsonl").read_text()
    assert "NaN" not in lines
    assert json.loads(lines.splitlines()[3])["loss"] is None


def test_a_loss_that_stays_away_ends_the_run_with_its_weights(corpus, tmp_path):
    code, log = launch(tmp_path, corpus, extra=["optim.lr=1e30", "train.max_skipped=2"])
    assert code != 0
    assert log.count("error: 3 steps in a row") == 1
    assert "Traceback" not in log
    metrics = read_metrics(tmp_path / "r")
    assert [math.isfinite(m["loss"]) for m in metrics[-3:]] == [False] * 3
