"""A user's own functions with the signatures of the podcast benchmark, sought by name.

A config may be changed by setters once the data is known: they get a view of it that is written to
as an object, with the names of both generations, and what they leave is checked as any config.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ndt3_dist.config import check, import_call
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.words.series import Series, rows_of
from ndt3_dist.tasks.words.word_config import Experiment, TaskConfig
from ndt3_dist.tasks.words.word_targets import TASKS, Examples


def find(name: str, key: str, ours: Mapping[str, Any], plugins: Sequence[str]) -> Any:
    """A function: an import path, a name of ours, or one in a module of `plugins`.

    Raises:
        BadInput: There is none of this name.
    """
    if ":" in name:
        return import_call(name, key)
    for module in plugins:
        try:
            held = vars(importlib.import_module(module))
        except ImportError as e:
            raise BadInput(f"plugins: {module} cannot be imported ({e}); is it installed?") from e
        for known, found in held.items():
            said = getattr(found, "words_options", {}).get("name") if callable(found) else None
            if callable(found) and (said or known) == name:
                return found
    if name in ours:
        return ours[name]
    raise BadInput(
        f"{key}: no {name!r}; expected one of {', '.join(ours) or 'none of ours'}, or "
        "package.module:function, or a name in a module that `plugins` lists"
    )


class View:
    """A section of a config as an object whose fields may be read and set."""

    ALIASES = {
        "model_params": ("model_spec", "params"),
        "model_constructor_name": ("model_spec", "constructor_name"),
        "data_params": ("task_config", "data_params"),
        "task_name": ("task_config", "task_name"),
    }

    def __init__(self, values: dict[str, Any], aliases: Mapping[str, tuple[str, ...]] = {}):
        vars(self).update(_values=values, _aliases=aliases)

    def _at(self, name: str) -> tuple[dict, str]:
        *parents, last = vars(self)["_aliases"].get(name, (name,))
        values = vars(self)["_values"]
        for parent in parents:
            values = values[parent]
        return values, last

    def __getattr__(self, name: str) -> Any:
        values, last = self._at(name)
        if last not in values:
            raise AttributeError(f"no {name} in the config; there are: {', '.join(values)}")
        found = values[last]
        free = last in ("params", "preprocessor_params", "task_params")
        return View(found) if isinstance(found, dict) and not free else found

    def __setattr__(self, name: str, value: Any) -> None:
        values, last = self._at(name)
        values[last] = vars(value)["_values"] if isinstance(value, View) else value


class RawView:
    """What setters ask of a recording: names, rate, length, and samples where they want them."""

    def __init__(self, series: Series):
        self.series, self.ch_names = series, list(series.labels)
        self.n_times = len(series.finite) - 1
        places = [
            {"ch_name": n, "loc": np.array([np.nan] * 12 if p is None else [*p, *[0] * 9]) / 1000}
            for n, p in zip(series.labels, series.places, strict=True)
        ]
        info = {"sfreq": series.rate_hz, "ch_names": self.ch_names, "chs": places, "bads": []}
        self.info: dict[str, Any] = {**info, "nchan": len(self.ch_names)}

    @property
    def times(self) -> np.ndarray:
        return np.arange(self.n_times) / self.series.rate_hz

    def get_data(self, picks: Any = None, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Samples in uV, (channels, samples)."""
        columns = list(self.series.columns)
        if picks is not None:
            at = [self.ch_names.index(p) if isinstance(p, str) else p for p in np.atleast_1d(picks)]
            columns = [columns[i] for i in at]
        return np.array(self.series.values[start:stop][:, columns].T, np.float64)


def as_table(examples: Examples) -> Any:
    """A pandas table with columns word, start, target and all others."""
    try:
        import pandas as pd
    except ImportError as e:
        raise BadInput(f"setters and getters take pandas tables ({e}); pip install pandas") from e
    columns = {name: list(values) for name, values in examples.more.items()}
    target = list(examples.target)
    return pd.DataFrame(
        {"word": examples.text, "start": examples.start, "target": target, **columns}
    )


def from_table(table: Any, word_column: str | None, fields: Sequence[str]) -> Examples:
    """Examples of a user's own table. Raises BadInput for one without start and target."""
    if missing := [name for name in ("start", "target") if name not in table]:
        raise BadInput(f"a task's table has no column {', '.join(missing)}; it has {list(table)}")
    target = np.stack([np.asarray(value) for value in table["target"]])
    kind = "vector" if target.ndim == 2 else "class" if target.dtype.kind in "iub" else "number"
    cast = {"vector": np.float32, "class": int, "number": np.float64}[kind]
    name = word_column or "word"
    words = [str(word) for word in table[name]] if name in table else [""] * len(table)
    more = {f: np.stack([np.asarray(v) for v in table[f]]) for f in fields}
    start = np.asarray(table["start"], np.float64)
    order = np.argsort(start, kind="stable")
    return Examples(start, words, target.astype(cast), kind, more).take(order)


def examples_of(stage: Experiment, onsets: dict[int, float]) -> Examples:
    """What a stage's task decodes."""
    task = stage.task_config
    getter: Callable = find(task.task_name, "task_name", TASKS, stage.plugins)
    if getter in TASKS.values():
        return getter(task, onsets)
    fields = task.task_specific_config.get("input_fields") or ()
    return from_table(getter(_task_view(task)), stage.data.word_column, fields)


def _task_view(task: TaskConfig) -> View:
    values = task.model_dump()
    return View({**values, **values["data_params"], "data_params": values["data_params"]})


def after_setters(stage: Experiment, series: Sequence[Series], examples: Examples) -> Experiment:
    """The config that its setters leave, task's own first.

    A setter of three arguments gets config, recordings and table, one of four the targets, too.
    """
    told = stage.task_config.task_specific_config.get("required_config_setter_names") or []
    own = stage.config_setter_name or []
    values = stage.model_dump()
    for name in [*told, *([own] if isinstance(own, str) else own)]:
        setter = find(name, "config_setter_name", SETTERS, stage.plugins)
        view, raws = View(values, View.ALIASES), [RawView(one) for one in series]
        arguments = [view, raws, as_table(examples), np.asarray(examples.target)]
        found = setter(*arguments[: len(inspect.signature(setter).parameters)])
        if not isinstance(found, View):
            raise BadInput(
                f"{name} gave a {type(found).__name__}; expected the config it was given"
            )
        values = vars(found)["_values"]
    return check(Experiment, _plain(values), "the config that setters left")


def _plain(values: Any) -> Any:
    """numpy's scalars as Python's, so that a config can be written."""
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    if isinstance(values, np.ndarray):
        return values.tolist()
    return values.item() if isinstance(values, np.generic) else values


def neural_conv(config: View, raws: Sequence[RawView], table: Any) -> View:
    """Input channels and steps of a decoder behind bins; ours find both by themselves."""
    params, data = config.model_spec.params, config.task_config.data_params
    params["input_channels"] = sum(len(raw.ch_names) for raw in raws)
    rows = rows_of(data.window_width, raws[0].info["sfreq"])
    said = data.preprocessor_params or {}
    for one in said if isinstance(said, list) else [said]:
        rows //= int((one or {}).get("num_average_samples", 1))
    params["input_timesteps"] = rows
    return config


SETTERS = {"neural_conv": neural_conv}


def with_model_columns(stage: Experiment, series: Sequence[Series], examples: Examples) -> Examples:
    """Examples with what the model's own getter adds, by the names that the model takes."""
    spec = stage.model_spec
    name = spec.model_data_getter
    if not name:
        return examples
    getter = find(name, "model_data_getter", {}, stage.plugins)
    table, added = getter(as_table(examples), [RawView(one) for one in series], dict(spec.params))
    fields = [*examples.more, *added]
    more = {f: np.stack([np.asarray(v) for v in table[f]]) for f in fields}
    return Examples(examples.start, examples.text, examples.target, examples.kind, more)
