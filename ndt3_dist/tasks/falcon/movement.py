"""Fit decoders of movement to FALCON's recordings, as prepared by its recipes: one for each.

zero-shot: held-in recordings alone; the last of them decodes held-out ones. few-shot: also each
held-out recording's few minutes of calibration. oracle: in place of these, its oracle file.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from ndt3_dist import log, storage
from ndt3_dist.config import find_file, load_config
from ndt3_dist.errors import BadInput, ResumeMismatch
from ndt3_dist.shards.manifest import Manifest, Session, read_manifest
from ndt3_dist.tasks.falcon.fitted import Decodes, Fitted, Mode, write_fitted
from ndt3_dist.tasks.falcon.tags import Task, tag_of
from ndt3_dist.tune.finetune import finetune
from ndt3_dist.tune.tune_config import TuneConfig

FIT_SPLITS = "train", "calibration"
"""Of a session the first that it has is fitted to."""


def sessions_of(task: Task, manifest: Manifest, oracle: bool) -> dict[str, Session]:
    """The session of each recording that a corpus has, by tag; held-out ones of their oracle files
    or of their calibration files."""
    found: dict[str, Session] = {}
    for session in manifest.sessions:
        if session.is_removed:
            continue
        tag = tag_of(task, session.source)
        if tag in task.held_out and ("oracle" in session.source) != oracle:
            continue
        if tag in found:
            raise BadInput(f"{found[tag].source} and {session.source} are both {tag}")
        found[tag] = session
    return {tag: found[tag] for tag in task.tags if tag in found}


def split_of(session: Session) -> str:
    """The split of a session to fit to."""
    for split in FIT_SPLITS:
        if split in session.windows and session.windows[split].kept:
            return split
    raise BadInput(f"session {session.id} has no window of split {' or '.join(FIT_SPLITS)}")


def is_fitted(run: Path, settings: TuneConfig, weights: str) -> bool:
    """Whether a fit has ended; ResumeMismatch where it was another one.

    Args:
        run: Its folder.
        settings: Of a fit.
        weights: Hash of those that it starts from.
    """
    if not (run / "export" / "config.json").is_file():
        return False
    theirs = storage.read_json(run / "config.json")
    begun = theirs.pop("begun")["from"]
    ours = json.loads(settings.model_dump_json())
    changed = [name for name in ours if theirs.get(name) != ours[name]]
    changed += ["--init"] * (begun != weights)
    if changed:
        raise ResumeMismatch(
            f"{run}: was fitted with other settings ({', '.join(changed)} differ); choose another "
            "--out or remove it"
        )
    return True


def fit_movement(
    task: Task,
    mode: Mode,
    corpus: str,
    init: str | None,
    out: str | Path,
    config: str = "tune_session.yaml",
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
) -> Fitted:
    """Fit a decoder to each recording; what was interrupted goes on with the same call.

    Args:
        corpus: Made by the task's recipe.
        init: Export to start each from; None = the config's own model.
        out: Folder for `fits/TAG` and falcon.json.
        config: Of a fine-tune.
        overrides: `section.key=value` of it.
        only: Tags to fit; none = all that the mode asks for.
    Raises:
        BadInput: The corpus lacks a recording that the mode asks for, or has other channels.
        ResumeMismatch: A recording was fitted there with other settings.
        KeyboardInterrupt: It was asked to stop.
    """
    out, file = Path(out), find_file(config, "configs")
    known = sessions_of(task, read_manifest(corpus), mode == "oracle")
    wanted = task.held_in if mode == "zero-shot" else task.tags
    wanted = tuple(tag for tag in wanted if tag in only) if only else wanted
    if missing := [tag for tag in wanted if tag not in known]:
        kind = "oracle" if mode == "oracle" else "calibration"
        raise BadInput(
            f"{corpus}: lacks {', '.join(missing)} of FALCON {task.name}, which {mode} fits to; "
            f"held-out recordings are taken from their {kind} files; --only fits some alone"
        )
    decoders = {}
    weights = storage.sha256_file(Path(init) / "model.safetensors") if init else ""
    for tag in log.progress(wanted, f"fitting FALCON {task.name}, recordings"):
        session, run = known[tag], out / "fits" / tag
        if session.channels != task.channels:
            raise BadInput(
                f"{corpus}: session {session.id} has {session.channels} channels, FALCON "
                f"{task.name} has {task.channels}; prepare it with {task.recipe}"
            )
        own = [f"data.corpus={corpus}", f"data.session={session.id}"]
        own += [f"data.fit={split_of(session)}", f"run.name={tag}", f"run.dir={run.parent}"]
        settings = load_config(TuneConfig, file, [*overrides, *own])
        if not is_fitted(run, settings, weights):
            done = finetune(settings, init)
            if done["stopped"]:
                raise KeyboardInterrupt(f"stopped ({done['stopped']}); the same command goes on")
        decoders[tag] = Decodes(export=f"fits/{tag}/export", session=session.id)
    held_in = [decoders[tag] for tag in task.held_in if tag in decoders]
    if mode == "zero-shot":
        decoders |= {tag: held_in[-1] for tag in task.held_out}
    fitted = Fitted(task=task.name, mode=mode, decoders=decoders)
    write_fitted(out, fitted)
    return fitted
