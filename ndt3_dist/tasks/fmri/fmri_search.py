"""Searches of settings of an encoder (`cluster.search`), each scored on its held-out clips."""

import difflib
from pathlib import Path
from typing import Any

from ndt3_dist import storage
from ndt3_dist.cluster.search.ask import check_optuna
from ndt3_dist.cluster.search.base import Base
from ndt3_dist.cluster.search.fork import score_of
from ndt3_dist.cluster.search.space import Space
from ndt3_dist.config import load_config
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.fmri.encoders.encode import RESULT, train
from ndt3_dist.tasks.fmri.encoders.held_out import METRIC
from ndt3_dist.tasks.fmri.fmri_config import FmriConfig

KIND = "ndt3_dist.tasks.fmri.fmri_search:search_to"
SEARCHED = "model", "optim", "train"


class EncoderBase(Base):
    """A config of an encoder that settings are laid upon."""

    @property
    def steps(self) -> int:
        return 0  # epochs decide


def settle(config: FmriConfig, space: Space, where: str) -> tuple[EncoderBase, Space]:
    """What is searched, checked.

    Raises:
        BadInput: Keys that are not searched, values that do not fit, no clips held out; all named.
    """
    base, said = EncoderBase(KIND, config.model_dump(mode="json"), FmriConfig), []
    if not config.data.val:
        said.append("data.val is empty; a search chooses by clips that are held out")
    if space.method not in ("grid", "random", "bayes"):
        said.append(f"method {space.method} needs steps; expected grid, random or bayes")
    if space.metric not in ("", METRIC) or space.direction == "min":
        said.append(f"metric {space.metric} {space.direction}; expected {METRIC}, max")
    for key, domain in space.domains.items():
        if key.partition(".")[0] not in SEARCHED:
            near = difflib.get_close_matches(key, [f"{s}.{key}" for s in SEARCHED], n=1)
            said.append(f"{key} is not searched ({near or 'expected model., optim. or train.'})")
            continue
        for value in domain.samples():
            try:
                base.config({key: value}, where)
            except BadInput as e:
                said.append(str(e).removeprefix(f"{where}: "))
    if said:
        raise BadInput(f"{where}: {'; '.join(dict.fromkeys(said))}")
    if space.method == "bayes":
        check_optuna()
    settled = {"metric": METRIC, "direction": "max", "trials": space.number}
    return base, space.model_copy(update=settled)


def search_to(job: dict[str, Any]) -> dict[str, Any] | None:
    """Bring a run of a setting to its end; None where it was asked to stop before."""
    config = load_config(FmriConfig, job["config"])
    folder = Path(config.run.dir) / config.run.name
    if not (folder / "export").exists() and train(config)["stopped"]:
        return None
    result = storage.read_json(folder / RESULT)
    if (folder / "metrics.jsonl").exists():
        return {**score_of(folder, METRIC, METRIC), "over": True}
    return {"score": result[METRIC], "step": 0, "steps": 0, "over": True}
