"""Where a fine-tune starts: an export's weights, in a model that may differ from the export's.

What fits by name and shape is copied, what `transfer.reinit` lists is new; a shape that fits
nowhere is refused, never passed over. Space ids follow from the new config (`model.tokens`), as
upstream's transfer has it; `transfer.space_rows` says whether rows of their table move with them.
"""

from collections.abc import Sequence

import torch

from ndt3_dist import log
from ndt3_dist.config import check
from ndt3_dist.data.order import seed_of
from ndt3_dist.errors import BadInput
from ndt3_dist.model.load import load_model, read_export_config
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.objective.identities import TABLE, grown, knowing
from ndt3_dist.model.space_ids import SpaceIds
from ndt3_dist.shards.manifest import Session
from ndt3_dist.shards.summary import text_table
from ndt3_dist.tune.lora import add_low_rank
from ndt3_dist.tune.parts import check_parts, freeze, part_of, parts_table
from ndt3_dist.tune.tune_config import TuneConfig

CHANGES = {"channels_per_token", "max_channels", "behavior_dim", "context_tokens"}


def start_model(
    config: TuneConfig, init: str | None, scratch: bool, sessions: Sequence[Session] = ()
) -> tuple[NDT3, set[str]]:
    """The model to fit, and which of its own weights are new.

    New weights depend on the seed alone. From scratch all are new: nothing is frozen then, and
    there are no low-rank updates.

    Args:
        init: Export to start from; None = the config's own `model` section.
        scratch: Take only the architecture of `init`.
        sessions: That it is fitted to; identities that the export does not know begin as the mean
            of their kind.
    Returns:
        The model with frozen parts and low-rank updates, and the names of new parameters, the
        updates left out.
    """
    frozen, rank = config.train.freeze, config.lora.rank
    check_parts("transfer.reinit", config.transfer.reinit)
    check_parts("train.freeze", frozen)
    if both := set(frozen) & set(config.transfer.reinit):
        raise BadInput(f"{', '.join(sorted(both))}: both in transfer.reinit and in train.freeze")
    for part in ("readin", "backbone") if rank else ():
        if part in config.transfer.reinit:
            raise BadInput(f"lora.rank freezes {part}; take it out of transfer.reinit")
    if rank and "readin" in frozen:
        raise BadInput("lora.rank updates readin too; take it out of train.freeze")
    if init:
        values = read_export_config(init)["model"]
    elif config.model:
        values = config.model.model_dump()
    else:
        raise BadInput(
            "nothing to start from: give --init EXPORT, or a config with a model section"
        )
    changes = config.transfer.model_dump(include=CHANGES, exclude_none=True)
    weights = {"spike_weight": 0.0} if config.train.objective == "covariates" else {}
    values = {**values, **changes, **weights, "dropout": config.train.dropout}
    torch.manual_seed(seed_of("weights", config.run.seed))
    where = f"{init} with {', '.join(f'transfer.{k}={v}' for k, v in changes.items())}"
    options = check(ModelConfig, values, where if init and changes else init or "model")
    model = NDT3(knowing(options, sessions))
    updates: set[str] = set()
    if init and not scratch:
        new = copy_weights(init, model, config.transfer)
        # Without a label it has no gradient, and weight decay alone would move it.
        idle = [] if config.has_labels or config.data.replay.sessions else ["covariates"]
        freeze(model, [*frozen, *idle])
        if rank:
            updates = add_low_rank(model, rank, config.lora.alpha)
        if not any(p.requires_grad for p in model.parameters()):
            raise BadInput("train.freeze leaves nothing to train; expected fewer parts")
    else:
        new = {name for name, _ in model.named_parameters()}
        if frozen or rank:
            log.say("from scratch: all weights are trained, train.freeze and lora set aside")
    log.say(text_table(parts_table(model, new | updates)))
    return model, new


@torch.no_grad()
def copy_weights(init: str, model: NDT3, transfer: TuneConfig.Transfer) -> set[str]:
    """Copy an export into a model, except for the parts to initialise anew.

    Returns:
        Names of the parameters that are new.
    Raises:
        BadInput: Shapes differ outside of `transfer.reinit`.
    """
    source = load_model(init)
    weights = dict(source.named_parameters())
    new, unfit = set(), {}
    for name, parameter in model.named_parameters():
        weight = weights[name]
        if name == TABLE:
            weight = grown(weight, source.config.identities, model.config.identities)
        if part_of(name) in transfer.reinit:
            new.add(name)
        elif weight.shape != parameter.shape:
            unfit[name] = f"{name} is {tuple(weight.shape)}, needed {tuple(parameter.shape)}"
        elif name == "space.weight" and transfer.space_rows == "by_meaning":
            for old, row in moved_rows(source.config, model.config):
                parameter[row] = weight[old]
        else:
            parameter.copy_(weight)
    if unfit:
        parts = ", ".join(sorted({part_of(name) for name in unfit}))
        raise BadInput(
            f"{init}: {'; '.join(unfit.values())}; start {parts} anew with transfer.reinit"
        )
    old, ids = vars(SpaceIds.of(source.config)), vars(SpaceIds.of(model.config))
    if old != ids:
        moves = ", ".join(f"{k} {old[k]} -> {ids[k]}" for k in ids if old[k] != ids[k])
        log.say(f"space ids move ({transfer.space_rows}): {moves}")
    return new


def moved_rows(old: ModelConfig, new: ModelConfig) -> list[tuple[int, int]]:
    """Rows of two space tables that mean the same, as pairs (old, new)."""
    a, b = SpaceIds.of(old), SpaceIds.of(new)
    dims = min(old.behavior_dim, new.behavior_dim)
    patches = min(a.returns - a.spikes, b.returns - b.spikes)
    pairs = [(0, 0), (a.returns, b.returns)]
    pairs += [(a.constraint + i, b.constraint + i) for i in range(dims)]
    pairs += [(a.spikes + i, b.spikes + i) for i in range(patches)]
    return pairs + [(a.covariates + i, b.covariates + i) for i in range(dims)]
