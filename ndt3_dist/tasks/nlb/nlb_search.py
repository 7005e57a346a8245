"""A search over a dataset's space (`cluster.search`): what is asked and checked, and its trials."""

import difflib
from typing import Any

from ndt3_dist.cluster.search.ask import check_optuna
from ndt3_dist.cluster.search.base import Base, check_steps
from ndt3_dist.cluster.search.space import Space
from ndt3_dist.config import check, set_key
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.nlb.ndt1_config import Ndt1Config
from ndt3_dist.tasks.nlb.nlb_settings import space_of
from ndt3_dist.train.pretrain_config import PretrainConfig

KIND = "ndt3_dist.tasks.nlb.nlb_training:search_to"
SEARCHED = ("model", "optim")
"""Sections whose keys may be searched."""


def ask(
    dataset: str, samples: int, seed: int, method: str, asha: tuple[int, int], own: dict | None
) -> Space:
    """What is searched, and how.

    Args:
        samples: Settings to try.
        seed: Of what is drawn.
        method: bayes, random or asha.
        asha: Steps before a setting may be ended, and one in how many goes on then.
        own: A space of the user's, instead of the dataset's.
    """
    values: dict[str, Any] = {"method": method, "space": own or space_of(dataset)}
    values |= {"trials": samples, "draw": seed, "metric": "val_loss", "direction": "min"}
    if method == "asha":
        values |= {"first_steps": asha[0], "reduction": asha[1]}
    return check(Space, values, "the search")


def base_of(values: dict, overrides: list[str]) -> Base:
    """The config that settings are laid upon; all of it checked.

    Args:
        values: `nlb_settings.config_of`.
        overrides: section.key=value.
    """
    from ndt3_dist.config import parse_scalar

    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise BadInput(f"{override!r} is not an override; expected section.key=value")
        set_key(values, key, parse_scalar(text, key))
    config = check(PretrainConfig, values, "the config")
    check(Ndt1Config, config.model.model_dump(mode="json"), "model")
    return Base(KIND, config.model_dump(mode="json"), PretrainConfig)


def check_search(base: Base, space: Space) -> None:
    """Refuse keys that are not there, values that do not fit, a length that ASHA cannot do with."""
    said = []
    for key, domain in space.domains.items():
        section, _, field = key.partition(".")
        known = {"model": Ndt1Config.model_fields, "optim": base.values["optim"]}.get(section, {})
        if field not in known:
            every = [f"model.{k}" for k in Ndt1Config.model_fields]
            every += [f"optim.{k}" for k in base.values["optim"]]
            near = difflib.get_close_matches(key, every, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected {' or '.join(SEARCHED)}.KEY"
            said.append(f"{key} is not searched ({hint})")
            continue
        for value in domain.samples():
            try:
                config = base.config({key: value}, "the space")
                check(Ndt1Config, config.model.model_dump(mode="json"), "the space")
            except BadInput as e:
                said.append(str(e))
    if said:
        raise BadInput("; ".join(dict.fromkeys(said)))
    check_steps(base, space)
    if space.method == "bayes":
        check_optuna()
