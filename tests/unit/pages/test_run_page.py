"""The page of a run: what it says first, and that it knows no name of ours."""

import json
import math
import re
from pathlib import Path

import numpy as np

from ndt3_dist.evaluate.predictions import save_predictions
from ndt3_dist.pages.course import Course
from ndt3_dist.pages.picture import save_traces
from ndt3_dist.pages.run_page import write_report
from ndt3_dist.pages.words import R2

STEPS = 40


def lines(**of_step) -> list[dict]:
    """Metrics of a run whose keys are functions of the step."""
    told = {
        "loss": lambda s: 2 / s,
        "epochs": lambda s: (s - 1) / 5,
        "position": lambda s: 2 * (s - 1),
        "tokens": lambda _: 1000,
        "step_s": lambda _: 0.5,
        "wait_s": lambda _: 0.01,
    } | of_step
    return [{"step": s, **{k: f(s) for k, f in told.items()}} for s in range(1, STEPS + 1)]


def page_of(folder: Path, metrics: list[dict], config: str = "") -> str:
    text = "".join(json.dumps(line) + "\n" for line in metrics)
    (folder / "metrics.jsonl").write_text(text.replace("NaN", "null"))
    if config:
        (folder / "config.yaml").write_text(config)
    return Path(write_report(folder)).read_text()


def said(page: str, tag: str = "h1") -> str:
    """The text of the first element of a kind."""
    found = re.search(f"<{tag}>(.*?)</{tag}>", page)
    assert found, page
    return re.sub(r"<[^>]*>", "", found[1])


def evaluation(model: float, ridge: float | None = 0.8) -> dict:
    wave = np.sin(np.arange(900) / 20)[:, None]
    found = {"model_a": {"r2": model, "bins": 900, "r2_per_dimension": [model]}}
    if ridge is not None:
        found["ridge"] = {"r2": ridge, "bins": 900, "r2_per_dimension": [ridge]}
    predictions = {name: wave + 0.1 for name in found}
    told = {"session": "t-S_1", "bin_ms": 20.0, "context": 100, "dims": ["x_1 (cm/s)"]}
    return {**told, "scores": found, "truth": wave, "predictions": predictions}


def test_what_a_decoder_may_have_seen_is_said_beside_its_scores(tmp_path):
    for number, seen in enumerate(([], ["runs/<a> may have seen what it is scored on"])):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_predictions(folder / "evaluation.npz", {**evaluation(0.9), "seen": seen})
        assert ("runs/&lt;a&gt; may have seen what" in page_of(folder, lines())) == bool(seen)


def test_without_scores_the_loss_is_the_headline(tmp_path):
    page = page_of(tmp_path, lines())
    assert said(page) == "Loss 0.051 after 8.0 passes; it began at 1.500"
    assert "Validation" not in page
    assert "Decoding" not in page


def test_steps_are_told_where_a_run_draws_at_random(tmp_path):
    at_random = lines(epochs=lambda s: s - 1, position=lambda s: s - 1)
    assert said(page_of(tmp_path, at_random)) == "Loss 0.051 after 40 steps; it began at 1.500"
    page = page_of(tmp_path, [{"step": 1, "loss": 0.5}])
    assert said(page) == "Loss 0.500 after 1 step; it began at 0.500"


def test_a_validated_run_tells_its_score_and_its_best(tmp_path):
    val = {
        "val_loss": lambda s: 1 / s if s % 10 == 0 else math.nan,
        "val_bits": lambda s: 0.1 * s if s % 10 == 0 else math.nan,
        "val_tip_r2": lambda s: 0.8 - abs(s - 30) / 100 if s % 10 == 0 else math.nan,
    }
    page = page_of(tmp_path, lines(**val))
    told = f"Validation tip {R2} 0.700 after 8.0 passes; the best was 0.800 at step 30"
    assert said(page) == told
    assert 'left:0.0%">10<' not in page  # charts of scores have the steps of all others
    page = page_of(tmp_path, lines(**val), "validation: {metric: val_bits}\n")
    assert said(page) == "Validation bits 4.000 after 8.0 passes"
    only = {"val_loss": val["val_loss"]}
    page = page_of(tmp_path, lines(**only), "validation: {metric: val_loss}\n")
    assert said(page) == "Validation loss 0.025 after 8.0 passes"


def test_an_evaluated_run_is_set_beside_the_ridge(tmp_path):
    for model, ridge, told in (
        (0.8125, 0.8, ": 0.012 above the ridge"),
        (0.709, 0.83, ": 0.121 below the ridge"),
        (0.8001, 0.8, ", as good as the ridge"),
        (0.75, None, ""),
    ):
        save_predictions(tmp_path / "evaluation.npz", evaluation(model, ridge))
        page = page_of(tmp_path, lines())
        assert said(page) == f"{R2} {model:.3f} by model_a after 8.0 passes{told}"
    save_predictions(tmp_path / "evaluation.npz", evaluation(math.nan))
    page = page_of(tmp_path, lines())
    assert said(page).startswith("Loss ")
    assert "nan" not in page.split("</style>")[1]


def test_targets_scores_and_datasets_of_any_name_are_curves_and_rows(tmp_path):
    own = {
        "loss_grip_force": lambda s: 3 / s,
        "loss/lab_a": lambda s: 2 / s,
        "loss/lab_b": lambda s: 3 / s,
        "val_loss": lambda s: 1 / s,
        "val_loss_grip_force": lambda s: 1 / s,
        "val_force_error": lambda s: 1 / s,
        "val_force_error/lab_a": lambda s: 1 / s,
        "val_force_error/lab_b": lambda _: math.nan,
        "val_s": lambda _: 0.1,
    }
    page = page_of(tmp_path, lines(**own)).split("</style>")[1]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    captions = [re.sub(r"<[^>]*>", "", re.sub(r"<span class=.key.*", "", c)) for c in captions]
    assert page.count('class="k2 dot"') == 1  # the validated losses beside those of training
    assert captions == [
        "grip_force",
        "Force error",
        "Tokens/s",
        "Waiting for data, % of the time",
    ]
    assert "<td><code>lab_b</code></td>" in page
    plain = re.sub(r"<code.*?</code>|<[^>]*>", " ", page)
    assert "_" not in plain
    assert "nan" not in plain
    for name in ("spikes", "covariates"):
        assert name not in page


def test_numbers_of_the_whole_run_are_sums(tmp_path):
    metrics = lines(memory_gb=lambda s: s / 10)
    metrics[5]["loss"] = math.nan
    facts = Course(metrics).facts()
    assert facts["tokens"] == 40_000
    assert facts["tokens_per_s"] == 2000
    assert facts["waiting_for_data_share"] == 0.02
    assert (facts["memory_gb"], facts["steps_without_a_loss"]) == (4.0, 1)
    page = page_of(tmp_path, metrics)
    assert re.search(r"<dt>Memory</dt><dd><span class=.n.>4.00 GB", page)


def test_of_many_decoders_the_best_and_the_ridge_are_drawn(tmp_path):
    result = evaluation(0.7)
    for name, r2 in (("b", 0.9), ("c", 0.6)):
        result["scores"][name] = {"r2": r2, "bins": 900, "r2_per_dimension": [r2]}
        result["predictions"][name] = result["truth"]
    save_predictions(tmp_path / "evaluation.npz", result)
    page = page_of(tmp_path, lines())
    keys = re.findall(r'class="key[^>]*><code>(.*?)</code>', page)
    assert keys == ["ridge", "b"]
    assert '<tr class="best"><td><code>b</code></td>' in page


def test_a_picture_of_traces_is_of_the_kind_that_its_name_asks_for(tmp_path):
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        save_traces(evaluation(0.7), tmp_path / "new" / f"a{suffix}")
        assert (tmp_path / "new" / f"a{suffix}").read_bytes().startswith(start)
