"""`launch/plan.py`, as it is typed."""

import json

import pytest
from forks import run_program

CARD = "--gpu", "a100-40gb"
SMALL = "--config", "demo.yaml", "--hours", "20"


def test_it_reports_without_a_gpu_or_data(tmp_path):
    done = run_program(
        "launch/plan.py", "--config", "base_45m_200h.yaml", "--gpus", "16", *CARD, "--hours", "200",
        "--price", "2", "--picture", tmp_path / "curves.svg", "data.lanes=128",
        "data.block_samples=1024",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for said in ("44,919,649 parameters", "16 x a100-40gb, 2 hosts of 8, ib-hdr", "GPU-hours, cost",
                 "*  1", "sum gradients (fp32), x1", "checkpoints: 0.54 GB each"):  # fmt: skip
        assert said in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1024")
    assert "problems" not in done.stdout
    assert (tmp_path / "curves.svg").read_text().startswith("<?xml")


def test_json_has_all_of_it(corpus):
    done = run_program(
        "launch/plan.py", "--config", "demo.yaml", "--gpus", "2", *CARD, "--json",
        "--corpus", corpus, "train.epochs=400", "data.block_samples=1", "data.lanes=2",
        "optim.decay_epochs=400", "model.max_channels=960",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["corpus"]["windows"] > 10
    assert corpus in found["corpus"]["source"]
    assert found["memory"]["total"] == sum(v for k, v in found["memory"].items() if k != "total")
    assert found["course"]["gpus"] == 2
    assert found["changed"] == []
    assert [c["gpus"] for c in found["curve"]] == [1, 2]  # a step has two rows


def test_what_cannot_run_is_refused_after_all_of_it_was_said():
    done = run_program("launch/plan.py", *SMALL, "--gpus", "3", *CARD, "train.ranks=2")
    assert done.returncode == 1
    assert done.stdout.count("  refused: ") == 2
    assert "what follows is with train.ranks=3 train.global_batch=3\n" in done.stdout
    assert "by number of GPUs" in done.stdout
    (error,) = done.stderr.splitlines()
    assert error.startswith("error: train.ranks is 2, 3 were launched")
    assert "which 3 ranks cannot share evenly" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give --gpus, --deadline or --budget"),
        (("--gpus", "2", "--deadline", "7d"), "--gpus says how many"),
        (("--budget", "100"), "--budget needs --price"),
        (("--deadline", "soon"), "expected 7d, 36h or 90m"),
        (("--gpus", "2", "--mfu", "460"), "expected .46 or 46%"),
        (("--gpus", "0"), "is not above 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, said):
    done = run_program("launch/plan.py", *SMALL, *CARD, *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_deadline_says_what_to_rent():
    done = run_program("launch/plan.py", "--config", "big_350m_2kh.yaml", *CARD, "--deadline", "7d")
    assert done.returncode == 0, done.stderr
    assert "GPUs: 32 x a100-40gb" in done.stdout
