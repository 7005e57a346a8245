"""The verbs of `ndt3 fmri` that train."""

import argparse
import os
from pathlib import Path

from ndt3_dist import log
from ndt3_dist.config import check, find_file, parse_scalar, read_values, set_key
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.fmri import original_flags

CONFIGS = "configs/fmri"
DEFAULT, ORIGINAL = "fmri_conv.yaml", "fmri_fusion.yaml"


def of_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help=f"YAML file or name of a shipped one ({DEFAULT})")
    original_flags.add_flags(parser)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")


def config_of(args):
    """The config that the command line, the environment and files say."""
    from ndt3_dist.tasks.fmri.fmri_config import FmriConfig

    told = original_flags.overrides(args, os.environ)
    file = args.config or (ORIGINAL if "model.kind" in told else DEFAULT)
    path = find_file(file, CONFIGS)
    values = read_values(FmriConfig, path)
    for override in args.overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise BadInput(f"{override!r} is not an override; expected section.key=value")
        told[key] = parse_scalar(text, key)
    for key, value in told.items():
        set_key(values, key, value)
    if args.wandb_entity:
        os.environ["WANDB_ENTITY"] = args.wandb_entity
    return check(FmriConfig, values, str(path), [*told])


def train(args) -> Path | None:
    """Train with some films held out."""
    config = config_of(args)
    with log.waiting("loading torch"):
        from ndt3_dist.tasks.fmri.encoders import encode

    found = encode.train(config)
    if found["stopped"]:
        log.say(f"stopped ({found['stopped']}); the same command goes on")
        return None
    scored = f", held-out r {found['val_r']:.4f}" if "val_r" in found else ""
    log.say(f"best epoch {found['best_epoch']}{scored}; export at {found['run']}/export")
    return Path(found["run"])


def again(run: Path, **changed) -> None:
    with log.waiting("loading torch"):
        from ndt3_dist.tasks.fmri.encoders import encode

    found = encode.retrain(run, **changed)
    if found["stopped"]:
        log.say(f"stopped ({found['stopped']}); the same command goes on")
        return
    log.say(f"{found['epochs']} epochs on all clips; export at {found['run']}/export")


def of_retraining(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", help="run, its folder or name ($ALGONAUTS_RUN_ID)")
    parser.add_argument("--output_dir", "--checkpoint_dir", help="folder of the runs")
    parser.add_argument("--wandb_project")
    parser.add_argument("--wandb_entity")
    parser.add_argument("--device", choices=["cuda", "cpu", "auto"], help=argparse.SUPPRESS)
    parser.add_argument("--no_diagnostics", action="store_true", help=argparse.SUPPRESS)


def retrain(args) -> None:
    """Train a run's model anew on all clips, for its best number of epochs."""
    run = args.checkpoint or os.environ.get("ALGONAUTS_RUN_ID")
    if not run:
        raise BadInput("no run: give --checkpoint RUN, or set ALGONAUTS_RUN_ID")
    changed = {}
    if args.wandb_project:
        changed = {"wandb": os.environ.get("WANDB_MODE", "online")}
        changed |= {"wandb_project": args.wandb_project}
    if args.wandb_entity:
        os.environ["WANDB_ENTITY"] = args.wandb_entity
    again(find_run(run, folder_of_runs(args)), **changed)


def fit(args) -> None:
    """Train, then retrain the same run; one that was killed goes on where it was."""
    config = config_of(args)
    with log.waiting("loading torch"):
        from ndt3_dist.tasks.fmri.encoders import encode

    run: Path | None = Path(config.run.dir) / config.run.name
    if encode.has_ended(config):
        log.say(f"{run}: trained already")
    else:
        run = train(args)
    if run:
        again(run)


def folder_of_runs(args) -> Path:
    told = args.output_dir or next(
        (v for n in original_flags.ENVIRONMENT["output_dir"] if (v := os.environ.get(n))), "runs"
    )
    return Path(told)


def find_run(name: str, runs: Path) -> Path:
    """The folder of a run that is given by its path, or by its name among the runs."""
    for place in (Path(name), runs / name):
        if (place / "fmri.yaml").is_file():
            return place
    known = sorted(p.parent.name for p in runs.glob("*/fmri.yaml")) if runs.is_dir() else []
    raise BadInput(f"no run {name}, there are {', '.join(known) or 'none'} in {runs}")


def of_sweeping(parser: argparse.ArgumentParser) -> None:
    of_training(parser)
    parser.add_argument("--space", required=True, help="YAML file: what is searched, and how")
    parser.add_argument("--trials", type=int, help="settings to try (default: the space's)")
    parser.add_argument("--seeds", type=int, help="runs of each setting (default: the space's)")
    parser.add_argument("--out", help="folder of the search (default: RUN.DIR/RUN.NAME_search)")
    parser.add_argument("--at-once", type=int, default=1, help="trials at the same time")
    parser.add_argument("--gpus-per-trial", type=float, default=0.0, help="or a fraction, as .25")
    parser.add_argument("--threads", type=int, default=1, help="of a run")


def sweep(args) -> None:
    """Search settings with Ray Tune; a killed search goes on."""
    from ndt3_dist.cluster.search import outcome, space
    from ndt3_dist.config import load_config
    from ndt3_dist.shards.summary import text_table

    told = [f"{k}={v}" for k in ("trials", "seeds") if (v := getattr(args, k)) is not None]
    asked = load_config(space.Space, find_file(args.space, CONFIGS), told)
    config = config_of(args)
    with log.waiting("loading torch"):
        from ndt3_dist.cluster.search.task_search import run_search
        from ndt3_dist.tasks.fmri import fmri_search

    base, asked = fmri_search.settle(config, asked, args.space)
    out = Path(args.out or Path(config.run.dir) / f"{config.run.name}_search")

    def say(search, trial) -> None:
        settings = " ".join(f"{k}={v}" for k, v in trial.settings.items())
        what = f"failed: {trial.error}" if trial.error else f"held-out r {trial.score:.4f}"
        log.say(f"trial {trial.number} {settings}: {what}")

    trials = run_search(base, asked, out, args.at_once, args.gpus_per_trial, args.threads, say)
    log.say(text_table(outcome.table_rows(asked, trials)))
    log.say(outcome.headline(asked, trials))
    if best := outcome.best_of(asked, trials):
        config = base.config(best.settings, "best", name=f"{config.run.name}_best")
        path = out / outcome.BEST
        from ndt3_dist.cluster.search.base import as_yaml

        path.write_text(f"# ndt3 fmri fit --config {path}\n{as_yaml(config)}")
        log.say(str(path))
