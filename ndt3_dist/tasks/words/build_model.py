"""A decoder of a config: its sub-models first, then itself, then the weights that it begins with.

Weights are safetensors, ours and those that a config names: nothing is unpickled. A path of the
podcast benchmark that ends in .pt means the file beside it that ends in .safetensors.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from ndt3_dist import storage
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.words.decoders.conv_decoder import BY_NAME
from ndt3_dist.tasks.words.plug_in import find
from ndt3_dist.tasks.words.word_config import Experiment, ModelSpec
from ndt3_dist.tasks.words.word_targets import Examples

if TYPE_CHECKING:
    from ndt3_dist.tasks.words.cell import Cell


def build(
    stage: Experiment, shape: tuple[int, ...], y: np.ndarray, examples: Examples, cell: "Cell"
) -> nn.Module:
    """The decoder of a cell.

    Args:
        shape: Of the features, (words, channels, steps) or (words, features).
        y: Targets, (words, dims) or (words,).
    """
    sizes = {"input_channels": shape[1], "input_timesteps": int(np.prod(shape[2:]))}
    dims = y.shape[1] if examples.kind == "vector" else 1
    if examples.classes > 2:
        dims = examples.classes
    return built(stage, stage.model_spec, {**sizes, "embedding_dim": dims}, cell)


def built(stage: Experiment, spec: ModelSpec, sizes: dict[str, int], cell: "Cell") -> nn.Module:
    constructor = find(spec.constructor_name, "constructor_name", BY_NAME, stage.plugins)
    is_ours = constructor in BY_NAME.values()
    params: dict[str, Any] = {**sizes, **spec.params} if is_ours else dict(spec.params)
    for name, inner in spec.sub_models.items():
        params[name] = built(stage, inner, sizes, cell)
    model = constructor(params)
    if not isinstance(model, nn.Module):
        raise BadInput(
            f"{spec.constructor_name} gave a {type(model).__name__}; expected a torch.nn.Module"
        )
    if spec.checkpoint_path:
        load_weights(model, weights_path(stage, spec.checkpoint_path, cell))
    return model


def weights_path(stage: Experiment, template: str, cell: "Cell") -> Path:
    """The file that a checkpoint_path means for a cell."""
    if "{prev_checkpoint_dir}" in template:
        raise BadInput("checkpoint_path has {prev_checkpoint_dir}, and no stage came before")
    told = template.replace("{lag}", str(cell.lag)).replace("{fold}", str(cell.fold))
    path = Path(told)
    return path.with_suffix(".safetensors") if path.suffix == ".pt" else path


def load_weights(model: nn.Module, path: Path) -> None:
    """Raises BadInput where the file is not there, or of another model."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise BadInput(f"checkpoint_path {path}: no such file; run the stage that writes it first")
    held, own = load_file(path), model.state_dict()
    lost = sorted(k for k in {*held} ^ {*own} if k not in held or k not in own)
    lost += sorted(k for k in {*held} & {*own} if held[k].shape != own[k].shape)
    if lost:
        raise BadInput(f"{path}: is of another model: {', '.join(lost[:5])} differ")
    model.load_state_dict(held)


def save_weights(stage: Experiment, model: nn.Module, cell: "Cell") -> None:
    """Write the best weights of a cell where the next stage looks for them."""
    from safetensors.torch import save

    seeds = stage.training_params.seeds
    tail = f"_seed{cell.seed}" if len(seeds) > 1 else ""
    folder = Path(stage.checkpoint_dir) / stage.trial_name / f"lag_{cell.lag}"
    name = f"best_model_fold{cell.fold}{tail}.safetensors"
    state = {name: t.detach().contiguous().clone() for name, t in model.state_dict().items()}
    storage.write_bytes(folder / name, save(state))
