"""Two pretrainings on one run folder: one goes on, the other is refused and has written nothing."""

from concurrent.futures import ThreadPoolExecutor

from launching import losses
from ranks import run_ranks

from ndt3_dist.checkpoint.steps import open_step, steps_of


def test_of_two_that_start_together_one_trains_as_if_alone(corpus, tmp_path):
    code, log = run_ranks(tmp_path / "alone", corpus, 1)
    assert code == 0, log
    with ThreadPoolExecutor(2) as both:
        ends = [both.submit(run_ranks, tmp_path / "two", corpus, 1, (), "auto") for _ in range(2)]
        found = sorted((end.result() for end in ends), key=lambda end: end[0])
    assert found[0][0] == 0, found
    # The second saw that the first was at work, or, where that was over by then, its last step.
    said = found[1][1]
    assert "at work there; wait for it (run.wait_s)" in said or "from step 12" in said + found[0][1]
    assert losses(tmp_path / "two") == losses(tmp_path / "alone")
    run = tmp_path / "two" / "r"
    assert steps_of(run) == [4, 8, 12]
    assert [open_step(run, step).meta["step"] for step in steps_of(run)] == [4, 8, 12]
    assert not (run / "lease.json").exists()


def test_one_that_waits_goes_on_where_the_first_has_ended(corpus, tmp_path):
    more = ["train.max_steps=16", "run.wait_s=200"]
    with ThreadPoolExecutor(2) as both:
        first = both.submit(run_ranks, tmp_path, corpus, 1)
        while not losses(tmp_path) if (tmp_path / "r" / "metrics.jsonl").exists() else True:
            assert not first.done(), first.result()
        second = both.submit(run_ranks, tmp_path, corpus, 1, more, "auto")
        assert first.result()[0] == 0, first.result()
        code, log = second.result()
    assert code == 0, log
    assert "resuming from step 12" in log  # which was not there as it began
    assert sorted(losses(tmp_path)) == list(range(1, 17))
