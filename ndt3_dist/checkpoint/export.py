"""From a sharded checkpoint to portable weights, and what an export says of itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ndt3_dist import log, storage
from ndt3_dist.checkpoint import lineage
from ndt3_dist.checkpoint.steps import Checkpoint, newest, open_step
from ndt3_dist.config import check
from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.model.load import FORMAT, VERSION
from ndt3_dist.model.model_config import NDT3_BUILD, ModelConfig
from ndt3_dist.model.objective.identities import names_of
from ndt3_dist.model.readout import Readout, save_readouts, told_readouts

if TYPE_CHECKING:
    from ndt3_dist.shards.manifest import Manifest, Session


def masters(
    run: str | Path, step: int | None, dtype: torch.dtype, say
) -> tuple[Checkpoint, dict[str, torch.Tensor]]:
    """Weights of a step of a run, verified; by default of its newest intact one.

    Raises:
        CheckpointCorrupt: The run has no intact checkpoint.
        BadInput: There is no such run.
    """
    if not storage.exists(run):
        raise BadInput(f"{run}: no such run folder; expected runs/NAME of a pretraining")

    def read(checkpoint: Checkpoint):
        names = checkpoint.meta["parameters"]
        return checkpoint, {
            name: checkpoint.master(name).to(dtype)
            for name in log.progress(names, "reading weights, tensors")
        }

    if step is not None:
        return read(open_step(run, step))
    found = newest(run, say, read)
    if found is None:
        raise CheckpointCorrupt(
            f"{run}: the run has no intact checkpoint under steps/; "
            "train until checkpoint.every_steps first"
        )
    return found


def export(run: str | Path, out: str | Path, step: int | None, dtype: str, say=print) -> dict:
    """Write the fp32 masters of a step (or their bf16 rounding) as an export.

    Args:
        out: Folder to make; refused where it exists and is not empty.
        step: Step to export; None = newest intact.
        dtype: fp32 (bit for bit) or bf16.
        say: Takes lines of progress.
    Returns:
        The export's config.json.
    """
    to = torch.bfloat16 if dtype == "bf16" else torch.float32
    checkpoint, weights = masters(run, step, to, say)
    trained = {
        "run": checkpoint.meta["config"]["run"]["name"],
        "step": checkpoint.meta["step"],
        "epochs": checkpoint.meta["epochs"],
        "corpus": checkpoint.meta["fingerprint"],
    }
    stages = lineage.at_step(run, checkpoint.meta["step"], checkpoint.meta["epochs"])
    if stages is not None:
        trained["lineage"] = stages
    model = checkpoint.meta["config"]["model"]
    if model.get("build", NDT3_BUILD) == NDT3_BUILD:
        model = check(ModelConfig, model, f"{checkpoint.folder}: model")
    config = describe_export(model, weights, dtype, trained)
    write_export(out, weights, config, storage.read_json(storage.join(run, "normalisation.json")))
    return config


def verify_export(run: str | Path, out: str | Path) -> list[tuple[str, list[int], str]]:
    """Read an export again and compare it with the checkpoint that it came from, bit for bit.

    Returns:
        Name, shape and sha256 of each tensor.
    Raises:
        CheckpointCorrupt: A tensor differs.
    """
    config, found = storage.read_json(Path(out) / "config.json"), []
    checkpoint = open_step(run, config["trained"]["step"])
    with safe_open(str(Path(out) / "model.safetensors"), framework="pt") as file:
        shapes = checkpoint.meta["parameters"].items()
        for name, shape in log.progress(shapes, f"verifying {out}, tensors"):
            tensor = file.get_tensor(name)
            if not torch.equal(tensor, checkpoint.master(name).to(tensor.dtype)):
                raise CheckpointCorrupt(f"{out}: {name} is not that of {checkpoint.folder}")
            data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
            found.append((name, shape, storage.sha256_bytes(data)))
    return found


def describe_export(
    model: ModelConfig | dict, weights: dict[str, torch.Tensor], dtype: str, trained: dict
) -> dict:
    """The config.json of an export: section `model`, size, and what it was trained on."""
    if isinstance(model, ModelConfig):
        # Which attention body runs is a matter of the machine, not of the weights.
        model = {**model.model_dump(mode="json"), "attention": "auto"}
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": model,
        "dtype": dtype,
        "parameters": sum(w.numel() for w in weights.values()),
        "trained": trained,
    }


def normalisation(
    manifest: "Manifest", sessions: "list[Session]", context: Sequence[str] = ()
) -> dict:
    """Bin and window size; covariates, scales and channels of each array of some sessions, and the
    names of their identities where a model has such a `context`."""
    return {
        "bin_size_ms": manifest.bin_size_ms,
        "window_bins": manifest.window_bins,
        "sessions": {
            s.id: {
                "covariates": [c.model_dump() for c in s.covariates],
                "channels": [a.channels for a in s.arrays],
                **({"identities": names_of(s, context)} if context else {}),
            }
            for s in sessions
        },
    }


def write_export(
    out: str | Path,
    weights: dict,
    config: dict,
    normalisation: dict,
    readouts: Sequence[Readout] = (),
) -> None:
    """Write an export folder; config.json comes last, so that a half-written one does not load."""
    if storage.is_remote(out):
        raise BadInput(f"{out}: exports are written to a local folder")
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise BadInput(f"{folder}: exists and is not empty; choose another folder or remove it")
    storage.check_room(folder, sum(w.numel() * w.element_size() for w in weights.values()))
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".model.safetensors.tmp"
    with log.waiting(f"writing {folder}"):
        save_file(weights, str(partial), metadata={"format": "pt"})
    storage.as_new(partial)
    partial.replace(folder / "model.safetensors")
    if readouts:
        config = {**config, "readout": save_readouts(folder, readouts)}
    storage.write_json(folder / "normalisation.json", normalisation)
    storage.write_bytes(folder / "README.md", model_card(config, normalisation).encode())
    storage.write_json(folder / "config.json", config)


def model_card(config: dict, normalisation: dict) -> str:
    """A short description of an export for whoever receives it."""
    model, trained = config["model"], config["trained"]
    opened = 'ndt3_dist.load_model("this folder")'
    what = f"A model of `{model.get('build')}`, {config['dtype']} weights."
    if model.get("build", NDT3_BUILD) == NDT3_BUILD:
        what = (
            f"{model['layers']} layers of width {model['dim']}, {model['heads']} heads, "
            f"{config['dtype']} weights."
        )
    else:
        opened = 'ndt3_dist.load_model("this folder", build=...)  # that function'
    if readouts := told_readouts(config):
        one = "the session" if len(readouts) == 1 else "each session"
        what += f"\nreadout.safetensors has gains of its expected counts for {one}"
        what += ", and what reads\nits covariates." if "hidden" in readouts[0]["shapes"] else "."
    if averaged := trained.get("averaged"):
        what += f"\nThe mean of {len(averaged)} exports, whose runs and shares config.json lists."
    chain = lineage.of_export(config)
    stages = "\n".join(lineage.lines(chain))
    seen = dict.fromkeys(name for stage in chain for name in stage["sessions"] or ())
    name = "NDT3" if "layers" in model else "Model"
    sessions = "\n".join(f"- {name}" for name in seen or normalisation["sessions"])
    return f"""# {name}, {config["parameters"]:,} parameters

{what}
Bins of {normalisation["bin_size_ms"]:g} ms. Trained by ndt3_dist, run `{trained["run"]}`, step
{trained["step"]}. Stages of training, oldest first:

{stages}

    import ndt3_dist
    model = {opened}

Covariates are in units of each session's scale, which normalisation.json holds.

Sessions whose data it has seen:

{sessions}
"""
