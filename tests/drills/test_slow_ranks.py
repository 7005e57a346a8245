"""Four ranks of which one after the other is slow: each is named, and where; then one hangs."""

import re

from launching import launch, log_of, ranks_of, wait_for_steps
from slowed import EVERY, HOST, WINDOWS, Slowed, end_of_hang, named_within_two_windows, wait_for


def test_ranks_that_are_slow_are_named_with_the_phase_and_a_hang_ends_the_job(
    corpus, tmp_path, monkeypatch
):
    slowed = Slowed(tmp_path / "slow", monkeypatch)
    process = launch(tmp_path, corpus, 4, [*WINDOWS, "train.hang_s=6"], wait=False)
    wait_for_steps(process, tmp_path, 2 * EVERY + 2)
    assert " slow" not in log_of(tmp_path)

    turns = [
        ("forward 3 0.5", rf"warning: rank 3 \(host {HOST}\) is slow at forward: 0\.\d+ s of each"),
        ("data 1 0.8", rf"warning: rank 1 \(host {HOST}\) is slow at data: "),
        ("checkpoint 2 1.5", rf"warning: rank 2 \(host {HOST}\) is slow at checkpoint: "),
        ("checkpoint all 1.8", r"warning: all ranks are slow at checkpoint: .* of the time"),
    ]
    for fault, said in turns:
        named_within_two_windows(slowed, tmp_path, process, fault, said)
    slowed.tell()
    log = wait_for("all ranks are no longer slow at checkpoint", tmp_path, process)
    assert len(re.findall("warning: .* slow at", log)) == len(turns), log
    for rank, phase in ((3, "forward"), (1, "data"), (2, "checkpoint")):
        assert f"rank {rank} (host {HOST}) is no longer slow at {phase}" in log

    ranks = ranks_of(process)
    ranks[2].suspend()
    last = end_of_hang(process, tmp_path, ranks[2:3])
    why = rf"rank 2 \(host {HOST}\) does not answer .*; it was last seen at: step \d+.* for 6 s"
    assert re.fullmatch(rf"error: {why}; where the threads of all ranks are: .*/r/faults", last)
    wrote = sorted(f.name[15:] for f in (tmp_path / "r" / "faults").iterdir())
    kinds = "collectives.json", "stacks.txt"
    assert wrote == [f"-rank{r:05d}-{kind}" for r in (0, 1, 3) for kind in kinds]
    texts = [f.read_text() for f in (tmp_path / "r" / "faults").glob("*stacks.txt")]
    assert all("thread MainThread:" in t and "thread watch:" in t for t in texts)
