"""Where a pretraining starts that is no resume: random weights, or those of an export.

An export that was imported with its optimiser's state goes on with it, and with its schedule: the
run counts epochs from those the export has behind it.
"""

from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ndt3_dist import log
from ndt3_dist.checkpoint.local_export import FILES, local_export
from ndt3_dist.checkpoint.steps import KINDS
from ndt3_dist.config import import_call
from ndt3_dist.data.order import seed_of
from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.model.load import load_model, read_export_config
from ndt3_dist.model.model_config import TRAINING_FIELDS, ModelConfig, OwnModel, completed
from ndt3_dist.model.objective.identities import TABLE, grown
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.upstream.from_ndt3 import OPTIMIZER


def build_model(options: ModelConfig | OwnModel) -> Any:
    """The model that a config's section `model` describes (`model.contract.Model`).

    Raises:
        BadInput: There is no such function, or it builds something else.
    """
    model = import_call(options.build, "model.build")(options.model_dump(mode="json"))
    asked = ("targets", "packing", "batch", "by_segment", "predictions", "operations")
    lacking = [name for name in asked if not hasattr(model, name)]
    if not isinstance(model, torch.nn.Module) or lacking:
        raise BadInput(
            f"model.build: {options.build} gave {type(model).__name__}"
            f"{' without ' + ', '.join(lacking) if lacking else ''}; expected a torch.nn.Module "
            "as docs/extend.md has it"
        )
    return model


def initial_model(config: PretrainConfig) -> Any:
    """The model with weights that depend on the seed alone."""
    torch.manual_seed(seed_of("weights", config.run.seed))
    model = build_model(config.model)
    model.recompute = config.train.recompute
    if config.train.compile:
        if torch.cuda.is_available():
            model.pad_to = config.data.row_tokens
        (model.compile_blocks if hasattr(model, "compile_blocks") else model.compile)()
    return model


class InitialExport:
    """The training state of an export, read as a checkpoint's is.

    Attributes:
        name: As it was given, without what must not be kept.
        folder: Where it lies on this host; by its last part the same on all hosts.
        config: Its config.json.
        adam_step: Steps that AdamW has behind it; 0 where the export has no optimiser state.
        epochs: Epochs it has behind it; 0 likewise.
    """

    def __init__(self, name: str, model: ModelConfig | OwnModel):
        """
        Args:
            name: A folder or an address (`checkpoint.local_export`).
            model: The config's.
        Raises:
            BadInput: The export is another model.
            CheckpointCorrupt: It is damaged.
        """
        self.name = log.without_secrets(name)
        self.folder = folder = local_export(name, (*FILES, OPTIMIZER))
        self.config = config = read_export_config(folder)
        theirs, ours = completed(config["model"]), completed(model.model_dump(mode="json"))
        free = TRAINING_FIELDS | {"identities"}
        differ = [k for k in ours if k not in free and theirs.get(k, ours[k]) != ours[k]]
        if differ:
            differences = ", ".join(f"model.{k} is {ours[k]}, there {theirs[k]}" for k in differ)
            raise BadInput(f"{folder} is another model than the config's: {differences}")
        build = import_call(model.build, "model.build") if isinstance(model, OwnModel) else None
        weights = {n: p.detach() for n, p in load_model(folder, build=build).named_parameters()}
        self.states = {"master": weights}
        self.adam_step, self.epochs = 0, 0.0
        file = folder / OPTIMIZER
        if "optimizer" not in config["trained"]:
            return
        try:
            moments = load_file(str(file))
            for kind in KINDS[1:]:
                found = {n: moments[f"{kind}.{n}"].view(w.shape) for n, w in weights.items()}
                self.states[kind] = found
        except (SafetensorError, OSError, KeyError, RuntimeError) as e:
            raise CheckpointCorrupt(
                f"{file}: not the optimiser's state of {folder} ({e}); import the checkpoint again"
            ) from e
        self.adam_step = config["trained"]["optimizer"]["step"]
        self.epochs = config["trained"]["epochs"]

    def grow(self, model: ModelConfig | OwnModel) -> None:
        """Take up rows for identities that the export does not know; their moments are zero."""
        if not isinstance(model, ModelConfig) or not model.context:
            return
        before = self.config["model"].get("identities", ())
        for kind, state in self.states.items():
            table = grown(state[TABLE], before, model.identities)
            if kind != "master":
                table[len(before) :] = 0
            state[TABLE] = table

    def read(self, name: str, start: int, length: int) -> dict[str, torch.Tensor]:
        """A flat range of a parameter's state, float32 by kind; moments are zero without any."""
        return {
            kind: self.states[kind][name].reshape(-1)[start : start + length].float()
            if kind in self.states
            else torch.zeros(length)
            for kind in KINDS
        }
