"""Other weights and a longer corpus in the middle of a real run: recorded, repeatable, replayed."""

import shutil

import pytest
from launching import losses
from ranks import run_ranks
from small_corpus import make_recording, write_corpus

from ndt3_dist.checkpoint.steps import open_step
from ndt3_dist.shards.manifest import read_manifest
from ndt3_dist.train.replay import replay
from ndt3_dist.train.run_metrics import read_metrics


def weights(first: int, rest: int) -> str:
    return (
        f"data.mixture=[{{sessions: ['*-01'], weight: {first}}}, "
        f"{{sessions: ['*'], weight: {rest}}}]"
    )


def test_weights_and_corpus_change_where_a_run_is_resumed(tmp_path):
    recordings = [make_recording(i, 40, [40]) for i in (1, 2, 3)]
    write_corpus(tmp_path / "c", recordings[:2])
    for extra, resume in (
        ([weights(1, 1), "train.max_steps=4"], "never"),
        ([weights(1, 4), "train.max_steps=8"], "auto"),
    ):
        code, log = run_ranks(tmp_path, tmp_path / "c", extra=extra, resume=resume)
        assert code == 0, log
    assert "source *-01: 20 windows" in log
    assert "20.00% of all rows" in log
    write_corpus(tmp_path / "c", recordings[2:], extends=read_manifest(str(tmp_path / "c")))
    shutil.copytree(tmp_path / "r", tmp_path / "again" / "r")
    for folder, ranks in ((tmp_path, 2), (tmp_path / "again", 1)):
        code, log = run_ranks(folder, tmp_path / "c", ranks, [weights(1, 4)], "auto")
        assert code == 0, log
    for ours, theirs in zip(
        read_metrics(tmp_path / "again" / "r"), read_metrics(tmp_path / "r"), strict=True
    ):
        for key in ("position", "samples", "tokens", "epochs", "lr"):
            assert ours[key] == theirs[key]
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path), rel=1e-5)
    stretches = open_step(tmp_path / "r", 12).stream["stretches"]
    assert [s["position"] for s in stretches] == [0, 16, 32]
    metrics = {m["step"]: m for m in read_metrics(tmp_path / "r")}
    for step in (2, 7, 12):
        found = replay(tmp_path / "r", step)
        assert len(found.rows) == metrics[step]["samples"]
        assert sum(r["tokens"] for r in found.rows) == metrics[step]["tokens"]
        assert not found.damaged
    code, log = run_ranks(tmp_path, tmp_path / "c", extra=["data.mixture=[]"], resume="auto")
    assert code != 0
    assert "data.mixture was" in log
