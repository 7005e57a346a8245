"""Two pretrainings that begin together on one run, one of them killed, again and again.

Whatever falls when: one goes on, the other is refused or takes over, and the losses are those of a
run that was left alone.
"""

import time

import numpy as np
import pytest
from launching import kill_all, launch

from ndt3_dist.checkpoint.steps import open_step, steps_of
from ndt3_dist.train.run_metrics import read_metrics

STEPS = ["train.max_steps=40"]


def losses_of(run: str) -> dict[int, float]:
    return {m["step"]: m["loss"] for m in read_metrics(run)}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("place", "rounds"),
    [
        ("disk", 1),
        pytest.param("disk", 20, marks=pytest.mark.drill),
        pytest.param("store", 20, marks=pytest.mark.drill),
    ],
)
def test_one_goes_on_and_the_losses_are_those_of_a_run_alone(
    corpus, tmp_path, store, place, rounds
):
    code, log = launch(tmp_path / "alone", corpus, 1, STEPS)
    assert code == 0, log
    alone, draw = losses_of(f"{tmp_path}/alone/r"), np.random.default_rng(0)
    ended = {0: 0, 1: 0}
    for number in range(rounds):
        folder = tmp_path / f"{place}{number}"
        dir_ = f"s3://lab/{number}" if place == "store" else str(folder)
        extra = [*STEPS, f"run.dir={dir_}"]
        both = [launch(folder, corpus, 1, extra, "auto", wait=False) for _ in range(2)]
        time.sleep(draw.uniform(2, 12))
        killed = both.pop(int(draw.integers(2)))
        if killed.poll() is None:
            kill_all(killed)
        code = both[0].wait(timeout=300)
        ended[min(code, 1)] += 1
        if code:  # refused by the one that was killed then: it is started again, as by a scheduler
            said = "".join(f.read_text() for f in folder.glob("log*.txt"))
            assert "at work there; wait for it" in said
            code, log = launch(folder, corpus, 1, [*extra, "run.wait_s=60"], "auto")
            assert code == 0, log
        assert losses_of(f"{dir_}/r") == alone, f"round {number}"
        kept = steps_of(f"{dir_}/r")
        assert [open_step(f"{dir_}/r", step).meta["step"] for step in kept] == kept
        assert kept[-1] == 40
    print(f"{place}: of {rounds}, {ended[0]} went on or took over, {ended[1]} were refused")
