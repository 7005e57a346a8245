"""YAML of an experiment: ours, and both generations of the podcast benchmark's.

The earlier one names the model and its params at the top, and the embedding inside data_params; the
later one has model_spec and task_config, and may be a list of `tasks` with `shared_params`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ndt3_dist import plain_yaml
from ndt3_dist.config import check, parse_scalar, read_values
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.words.word_config import Experiment

EARLIER = {
    "model_constructor_name": ("model_spec", "constructor_name"),
    "model_params": ("model_spec", "params"),
    "data_params": ("task_config", "data_params"),
    "task_name": ("task_config", "task_name"),
    "model_dir": ("checkpoint_dir",),
}
"""Key of the earlier generation -> where the later one has it."""
MOVED = "embedding_type", "embedding_layer", "embedding_pca_dim"
"""Of data_params, now of task_specific_config."""


def read_stages(path: str | Path, overrides: Sequence[str] = ()) -> list[Experiment]:
    """The stages of a file in order, with `--dotted.key=value` or `dotted.key=value` on top.

    Raises:
        BadInput: The file or a key cannot be used; names all that is wrong.
    """
    values: Any = read_values(Experiment, path)
    said = [o.removeprefix("--") for o in overrides]
    for override in said:
        key, is_set, text = override.partition("=")
        if not is_set:
            raise BadInput(f"{override!r} is not an override; expected dotted.key=value")
        put(values, key, parse_scalar(text, key))
    values = plain_yaml.as_numbers(values)
    shared = values.pop("shared_params", None) or {}
    stages = values.pop("tasks", None)
    if stages is None:
        stages = [values]
    elif values:
        raise BadInput(f"{path}: {', '.join(values)} beside tasks; put them into shared_params")
    found = []
    for stage in stages:
        for key, value in shared.items():
            put(stage, key, value)
        found.append(
            check(Experiment, translated(stage), str(path), [s.split("=")[0] for s in said])
        )
    names = [stage.trial_name for stage in found]
    if len({*names}) < len(names):
        raise BadInput(f"{path}: two tasks have one trial_name among {', '.join(names)}")
    return [named(stage) for stage in found]


def put(values: Any, dotted: str, value: Any) -> None:
    """Set a.b.0.c in nested dictionaries and lists."""
    *parents, last = dotted.split(".")
    for parent in parents:
        if isinstance(values, list):
            values = values[place(values, parent, dotted)]
            continue
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict | list):
            raise BadInput(f"{dotted}: {parent} is a value, not a section")
    if isinstance(values, list):
        values[place(values, last, dotted)] = value
    else:
        values[last] = value


def place(values: list, text: str, dotted: str) -> int:
    if not text.isdigit() or int(text) >= len(values):
        raise BadInput(f"{dotted}: {text} is none of 0 to {len(values) - 1}")
    return int(text)


def translated(values: dict) -> dict:
    """The keys of an earlier stage where the later generation has them."""
    found = {k: v for k, v in values.items() if k not in EARLIER}
    for key, where in EARLIER.items():
        if key in values:
            inner = found
            for parent in where[:-1]:
                inner[parent] = dict(inner.get(parent) or {})
                inner = inner[parent]
            inner[where[-1]] = values[key]
    task = found.get("task_config")
    if isinstance(task, dict) and isinstance(task.get("data_params"), dict):
        data, special = dict(task["data_params"]), dict(task.get("task_specific_config") or {})
        for key in MOVED:
            if key in data:
                special.setdefault(key, data.pop(key))
        found["task_config"] = {**task, "data_params": data, "task_specific_config": special}
    for model in models_of(found.get("model_spec")):
        model.pop("per_subject_feature_concat", None)
    return without_nulls(found)


def models_of(model: Any) -> list[dict]:
    if not isinstance(model, dict):
        return []
    inner = [m for sub in (model.get("sub_models") or {}).values() for m in models_of(sub)]
    return [model, *inner]


def without_nulls(values: Any) -> Any:
    """null = the default; so did the original's."""
    if isinstance(values, dict):
        return {k: without_nulls(v) for k, v in values.items() if v is not None}
    return values


def named(stage: Experiment) -> Experiment:
    """With its trial_name filled in."""
    if not stage.format_fields:
        return stage
    found = []
    for field in stage.format_fields:
        value: Any = stage
        for part in field.split("."):
            value = value.get(part) if isinstance(value, dict) else getattr(value, part, None)
        found.append(value)
    try:
        return stage.model_copy(update={"trial_name": stage.trial_name.format(*found)})
    except (IndexError, ValueError, KeyError, TypeError) as e:
        raise BadInput(f"trial_name {stage.trial_name!r} with {found}: {e}") from e
