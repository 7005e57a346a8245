"""The config that a search starts from, and what a setting makes of it; all checks before it."""

import copy
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from ndt3_dist import plain_yaml
from ndt3_dist.cluster.search.space import Space
from ndt3_dist.config import Section, check, load_config, set_key
from ndt3_dist.errors import BadInput
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.tune.tune_config import TuneConfig

SCHEMAS = {"finetune": TuneConfig, "pretrain": PretrainConfig}
FIXED = {
    "run": "names and seeds of runs are the search's own; --seeds K runs each setting K times",
    "validation": "it decides what a score means",
    "checkpoint": "it changes no score",
    "log": "it changes no score",
    "data.corpus": "it decides what a score means",
    "data.session": "it decides what a score means",
    "data.fit": "it decides what a score means",
    "data.decodes": "it decides what a score means",
    "train.objective": "it decides what a score means",
    "train.wise": "it is chosen when a run has ended, behind the scores that are compared",
    "data.covariates": "it decides what a score means",
    "data.val_fraction": "it decides what a score means",
    "data.share": "it decides what a score means",
    "data.minutes": "it decides what a score means",
    "data.sessions": "it decides what a score means",
    "data.exclude": "it decides what a score means",
}
"""Keys, or sections, that are not searched, and why."""
TUNED = "val_r2", "val_r2_uniform", "val_bits_per_spike"
"""Metrics of a fine-tune's held-back part."""


@dataclass(frozen=True)
class Base:
    """A config that settings are laid upon.

    Attributes:
        kind: The program that runs it: finetune, pretrain, or `package.module:function`, called as
            `fork.finetune_to` is.
        values: All of it, as plain data.
        own: Schema of a kind of the latter sort, which has sections like a fine-tune's or a
            pretraining's.
    """

    kind: str
    values: dict[str, Any]
    own: type[Section] | None = None

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str]) -> "Base":
        """Of a YAML file; its section `train` says whose it is. Raises BadInput."""
        try:
            found = plain_yaml.load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as e:
            raise BadInput(f"{path}: not valid YAML: {e}") from e
        train = found.get("train") if isinstance(found, dict) else None
        kind = "pretrain" if isinstance(train, dict) and "global_batch" in train else "finetune"
        return cls(kind, load_config(SCHEMAS[kind], path, overrides).model_dump(mode="json"))

    def config(self, settings: dict[str, Any], where: str, **run: Any) -> Any:
        """The whole config of a setting, with fields of its section `run`.

        Raises:
            BadInput: A key or a value is refused; `where` says whose.
        """
        values = copy.deepcopy(self.values)
        for key, value in [*settings.items(), *((f"run.{k}", v) for k, v in run.items())]:
            set_key(values, key, value, where)
        return check(self.own or SCHEMAS[self.kind], values, where)

    @property
    def steps(self) -> int:
        """Of a run; 0 where passes over a corpus decide."""
        train = self.values["train"]
        return train["max_steps"] if "max_steps" in train else train["steps"]

    @property
    def patience(self) -> int:
        return self.values["train" if self.kind == "finetune" else "validation"]["patience"]

    @property
    def decides(self) -> str:
        """The metric by which a run chooses its best step."""
        if self.kind == "pretrain":
            return self.values["validation"]["metric"]
        return TuneConfig.model_validate(self.values).metric


def as_yaml(config: Section) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def direction_of(metric: str) -> Literal["max", "min"]:
    """As `train.state.Best` has it."""
    return "min" if metric.startswith("val_loss") else "max"


def with_metric(base: Base, space: Space) -> tuple[Base, Space]:
    """Both with the metric, its direction and the number of trials settled.

    Raises:
        BadInput: There is no such metric, or it is of test bins, or has another direction.
    """
    metric = space.metric or base.decides
    split = base.values["data"].get("fit") or base.values.get("validation", {}).get("split")
    if split == "test":
        key = "data.fit" if base.kind == "finetune" else "validation.split"
        raise BadInput(f"{key} is test; a search chooses by it, so expected another split")
    if base.kind == "finetune":
        known = TUNED if base.decides == TUNED[0] else (base.decides,)  # no labels, no R2
        refuse_metric(metric, known if base.steps else TUNED[:1])
    else:
        if not base.values["validation"]["every_steps"]:
            raise BadInput(
                "validation.every_steps is 0; a search chooses by a validation, so say how often"
            )
        chosen = base.config({"validation.metric": metric}, "metric")
        base = Base(base.kind, chosen.model_dump(mode="json"))
        if isinstance(chosen.model, ModelConfig):
            from ndt3_dist.model.ndt3 import targets
            from ndt3_dist.train.validation import check_metric

            check_metric(metric, targets(chosen.model))
    if space.direction and space.direction != direction_of(metric):
        raise BadInput(
            f"direction is {space.direction}; {metric} is better where it is "
            f"{'lower' if direction_of(metric) == 'min' else 'higher'}, and runs keep that step"
        )
    settled = {"metric": metric, "direction": direction_of(metric), "trials": space.number}
    return base, space.model_copy(update=settled)


def refuse_metric(metric: str, known: Sequence[str]) -> None:
    if metric not in known:
        near = difflib.get_close_matches(metric, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
        raise BadInput(f"metric: no {metric!r} ({hint})")


def check_space(base: Base, space: Space, init: str | None, where: str) -> None:
    """Refuse, before anything starts, keys that are not searched, unknown ones and bad values.

    Raises:
        BadInput: Names all of them.
    """
    said: dict[str, None] = {}
    for key, domain in space.domains.items():
        section = key.partition(".")[0]
        if why := FIXED.get(key) or FIXED.get(section):
            said[f"{key} is not searched: {why}"] = None
        elif refused := _of_method(base, space, key):
            said[refused] = None
        elif section == "model" and base.values.get("model") is None:
            said[f"{key} is not searched: a fine-tune's model is its export's"] = None
        elif init and section == "model":
            said[f"{key} is not searched: --init decides the model"] = None
        else:
            for value in domain.samples():
                try:
                    base.config({key: value}, where)
                except BadInput as e:
                    if _is_of(e, key):
                        said[str(e).removeprefix(f"{where}: ")] = None
    if not said and space.method != "bayes":  # settings are known beforehand, each as a whole
        for number in range(min(space.number, 1000)):
            try:
                base.config(space.setting(number), where)
            except BadInput as e:
                said[str(e).removeprefix(f"{where}: ")] = None
    if said:
        raise BadInput(f"{where}: {'; '.join(said)}")


def _is_of(refusal: BadInput, key: str) -> bool:
    """Whether a value is refused by itself, and not in the company of the base's others."""
    if not isinstance(refusal.__cause__, ValidationError):
        return True
    place = key.split(".")
    for error in refusal.__cause__.errors():
        found = [str(part) for part in error["loc"]]
        if found[: len(place)] == place or (found and error["type"] == "extra_forbidden"):
            return True
    return False


def _of_method(base: Base, space: Space, key: str) -> str:
    """Why a method cannot search a key; empty where it can."""
    losses = "model.spike_weight", "model.covariate_weight"
    if space.metric == "val_loss" and key in losses:
        return f"{key} is not searched: val_loss is weighted by it; expected another metric"
    lengths = "train.steps", "train.max_steps", "train.epochs"
    if space.method in ("asha", "pbt") and key in lengths:
        return f"{key} is not searched by {space.method}: runs are compared at equal steps"
    if space.method == "pbt" and not key.startswith("optim."):
        return f"{key} is not searched by pbt: only optim.* can change while a run trains"
    return ""


def check_steps(base: Base, space: Space) -> None:
    """Refuse a length of runs that a method cannot do with. Raises BadInput."""
    if space.method not in ("asha", "pbt"):
        return
    key = "train.steps" if base.kind == "finetune" else "train.max_steps"
    first = space.first_steps if space.method == "asha" else space.every_steps
    if base.steps <= first:
        name = "first_steps" if space.method == "asha" else "every_steps"
        raise BadInput(
            f"{key} is {base.steps}; method {space.method} needs more: {name} is {first}"
        )
    every = base.values["train"]["eval_every"] if base.kind == "finetune" else 1
    if first % every:
        raise BadInput(
            f"train.eval_every is {every}; {space.method} compares scores after {first} steps, "
            "which is no multiple of it"
        )
    if space.method == "pbt" and base.patience:
        raise BadInput("patience ends runs of a pbt apart from each other; expected 0")


def stops(base: Base, space: Space) -> list[int]:
    """Steps at which a setting is looked at, the last 0: its end."""
    if space.method == "pbt":
        return [*range(space.every_steps, base.steps, space.every_steps), 0]
    found, step = [], space.first_steps
    while space.method == "asha" and step < base.steps:
        found.append(step)
        step *= space.reduction
    return [*found, 0]
