"""One self-contained HTML page of a run: what came of it, curves, throughput, traces, the corpus.

It knows no target and no score by name: each key of metrics.jsonl that begins as
`train.run_metrics` says becomes a curve.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist import plain_yaml, storage
from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.predictions import read_predictions, save_predictions
from ndt3_dist.pages.about import run_facts
from ndt3_dist.pages.chart import Series, as_chart, as_charts, raw_and_smoothed
from ndt3_dist.pages.course import Course
from ndt3_dist.pages.decoding import decoding_section, meaning, verdict
from ndt3_dist.pages.page import as_facts, as_page, as_table, section, sentence
from ndt3_dist.pages.sessions_table import sessions_table
from ndt3_dist.pages.words import Name, capital, count, plural, rounded, score, words
from ndt3_dist.shards.manifest import Manifest
from ndt3_dist.train.run_metrics import read_metrics

TOP = (
    *("parameters", "layers x width", "sessions", "hours", "windows", "tokens_of_a_pass"),
    *("begun", "device", "processes", "step_s", "seconds"),
)
"""What a page opens with, of what is known."""
SCORED = "r2_", "bits_per_spike_", "ridge_"
"""Keys of a summary that the table of scores shows."""


def headline(course: Course, evaluation: dict | None, metric: str) -> tuple[str, str]:
    """The sentence that says what came of a run, and what there is to say besides, as HTML.

    Args:
        course: Of the run.
        evaluation: As `write_report` has it.
        metric: Score that validation went by; "" = what there is.
    """
    seen = f"after {plural(count(course.last['step']), 'step')}"
    if course.passes:
        seen = f"after {plural(rounded(course.passes), 'pass', 'passes')}"
    validated = course.validated(metric)
    said = []
    if evaluation and (found := verdict(evaluation, "" if validated else seen)):
        said.append(found)
    if validated:
        key, last, best, step = validated
        what = words(key.removeprefix("val_"))
        text = sentence(f"Validation {what} ", score(last)) + f" {seen}"
        if best != last:
            text += sentence("; the best was ", score(best), " at step ", count(step))
        said.append(text)
    first, last = course.loss_ends()
    text = sentence("Loss ", score(last), " ") + seen + sentence("; it began at ", score(first))
    return (said or [text])[0], ". ".join([*said, text][1:])


def loss_section(course: Course) -> str:
    """Loss of each target at every step, smoothed, and where it was validated."""
    charts = []
    for key in course.keys("loss_") or course.keys("loss"):
        lines = raw_and_smoothed(*course.of(key), "training")
        steps, values = course.of(f"val_{key}", known=True)
        if len(steps):
            lines.append(Series(steps, values, "validation", 2, "dot"))
        what = key.removeprefix("loss_")
        charts.append(as_chart(what if what == key else Name(what), lines, "step", log=True))
    return section("Loss", as_charts(*charts))


def validation_section(course: Course) -> str:
    """Scores on held-out windows by step, and the last ones of each dataset."""
    charts, single = [], {}
    for key in course.scores():
        steps, values = course.of(key, known=True)
        what = key.removeprefix("val_")
        if len(steps) < 2:
            single[what] = score(values[0] if len(values) else None)
            continue
        lines = [Series(steps, values, "", 1, "line"), Series(steps, values, "", 1, "dot")]
        charts.append(as_chart(capital(words(what)), lines, "step", across=course.ends))
    of_datasets = as_table(course.by_dataset("val_"))
    return section("Validation", as_charts(*charts), as_facts(single), of_datasets)


def course_section(course: Course) -> str:
    """Gradient norm and learning rate."""
    charts = []
    for key in course.keys("grad_norm"):
        lines = raw_and_smoothed(*course.of(key))
        charts.append(as_chart(capital(words(key)), lines, "step", log=True))
    for key in course.keys("lr"):
        rate = [Series(*course.of(key))]
        charts.append(as_chart(capital(words(key)), rate, "step", from_zero=True))
    return section("Optimisation", as_charts(*charts))


def throughput_section(course: Course) -> str:
    """Tokens a second and the share of time spent waiting for data."""
    steps, seconds = course.of("step_s")
    seconds = np.maximum(seconds, 1e-9)
    tokens = raw_and_smoothed(steps, course.of("tokens")[1] / seconds)
    waited = raw_and_smoothed(steps, 100 * course.of("wait_s")[1] / seconds)
    rate = as_chart("Tokens/s", tokens, "step", from_zero=True)
    wait = as_chart("Waiting for data", waited, "step", unit="% of the time", from_zero=True)
    return section("Throughput", as_charts(rate, wait))


def metric_of(run: str | Path) -> str:
    """Score by which a pretraining was validated; "" where no config says one."""
    path = storage.join(run, "config.yaml")
    found = plain_yaml.load(storage.read_bytes(path)) if storage.exists(path) else {}
    return found.get("validation", {}).get("metric", "") if isinstance(found, dict) else ""


def write_report(
    run: str | Path,
    manifest: Manifest | None = None,
    evaluation: dict | None = None,
    summary: dict[str, Any] | None = None,
) -> str:
    """Write RUN/report.html from what there is.

    Args:
        manifest: Corpus to show in a table.
        evaluation: Result of `evaluate.session.evaluate`, for traces and scores; kept in
            RUN/evaluation.npz, which is shown where none is given.
        summary: Numbers for the top of the page; RUN/summary.json where none are given.
    Returns:
        The page's path.
    Raises:
        BadInput: The run has no metrics yet.
    """
    metrics = read_metrics(run)
    if not metrics:
        raise BadInput(f"{run}: no metrics.jsonl with a step in it, so nothing to report")
    kept, summary_file = storage.join(run, "evaluation.npz"), storage.join(run, "summary.json")
    if evaluation:
        save_predictions(kept, evaluation)
    elif storage.exists(kept):
        evaluation = read_predictions(kept)
    if summary is None and storage.exists(summary_file):
        summary = storage.read_json(summary_file)
    summary, course = summary or {}, Course(metrics)
    best_possible = summary.get("r2_best_possible")
    first, besides = headline(course, evaluation, metric_of(run))
    meant = sentence(*meaning(evaluation, best_possible)) if evaluation else ""
    about = run_facts(run, course) | course.facts()
    shown = (*about, *(k for k in summary if evaluation and k.startswith(SCORED)))
    about |= {k: v for k, v in summary.items() if k not in shown}
    top = {key: about.pop(key) for key in TOP if key in about}
    parts = [
        *(f"<p>{said}.</p>" for said in (meant, besides) if said),
        as_facts(top),
        decoding_section(evaluation, best_possible) if evaluation else "",
        section("Training", as_facts(about)),
        loss_section(course),
        validation_section(course),
        course_section(course),
        throughput_section(course),
        section("Losses by dataset", as_table(course.by_dataset("loss"))),
        section("Corpus", sessions_table(manifest)) if manifest else "",
    ]
    name = str(run).rstrip("/").rsplit("/", 1)[-1]
    path = storage.join(run, "report.html")
    storage.write_bytes(path, as_page("Run", name, first, parts))
    return path
