"""fMRI encoding: train on films, predict withheld ones, submit and score (docs/fmri.md).

Example:
    ndt3 fmri fit --config fmri_conv.yaml --features_dir features --data_dir algonauts_2025
    ndt3 fmri submit --checkpoint fmri_conv --test_names s07
    ndt3 fmri score runs/submissions/fmri_conv_s07_fmri_conv.npy --data_dir withheld
    ndt3 fmri sweep --config fmri_conv.yaml --space space.yaml
"""

import argparse
import os
import sys
from pathlib import Path

from ndt3_dist import log
from ndt3_dist.config import check, find_file, parse_scalar, read_values, set_key
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.fmri import original_flags

CONFIGS = "configs/fmri"
DEFAULT, ORIGINAL = "fmri_conv.yaml", "fmri_fusion.yaml"


def main() -> int | None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, what in VERBS.items():
        said = (what.__doc__ or "").splitlines()[0]
        verb = verbs.add_parser(name, help=said, description=said)
        ARGUMENTS[name](verb)
    args, rest = parser.parse_known_args()
    if rest and (not hasattr(args, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if rest:  # of settings between flags
        args.overrides += rest
    return VERBS[args.verb](args)


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


def of_submitting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", nargs="+", default=[], help="runs, their folders or names")
    parser.add_argument("--checkpoint_dir", help="take every run of a folder")
    parser.add_argument("--name", help="of the files (default: that of the first run)")
    parser.add_argument("--output_dir", help="folder of the runs, where submissions/ is made")
    parser.add_argument("--features_dir", help="default: that of the runs, or $FEATURES_DIR")
    parser.add_argument("--data_dir", help="default: that of the runs, or $DATA_DIR")
    parser.add_argument("--device", choices=["cuda", "cpu", "auto"])
    parser.add_argument(
        "--test_names", nargs="+", default=[], help="s07, or films (default: all but Friends)"
    )
    parser.add_argument("--equal", action="store_true", help="members of an ensemble weigh alike")
    parser.add_argument("--roi_ensemble", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--parcels", type=int, default=1000, help="that are expected")


def submit(args) -> None:
    """Predict withheld clips by one run or several, and write a checked submission."""
    runs = folder_of_runs(args)
    found = [find_run(name, runs) for name in args.checkpoint]
    if args.checkpoint_dir:
        found += sorted(p.parent for p in Path(args.checkpoint_dir).glob("*/fmri.yaml"))
    if not found:
        raise BadInput("no run to predict by: give --checkpoint RUN ... or --checkpoint_dir FOLDER")
    with log.waiting("loading torch"):
        from ndt3_dist.tasks.fmri import bold_predict, bold_submission
        from ndt3_dist.tasks.fmri.clips.sample_numbers import read_samples

    members = [bold_predict.Member.open(run, args.device) for run in found]
    data_dir = args.data_dir or os.environ.get("DATA_DIR") or members[0].config.data.data_dir
    features_dir = args.features_dir or os.environ.get("FEATURES_DIR", "")
    samples = read_samples(data_dir, members[0].subjects, args.test_names)
    temperature = float("inf") if args.equal else bold_predict.TEMPERATURE
    predicted = bold_predict.predict_clips(members, samples, features_dir, temperature)
    tests = "-".join(args.test_names) or "ood"
    last = found[0].name if len(found) == 1 else "ensemble"
    out = runs / "submissions" / f"{args.name or found[0].name}_{tests}_{last}"
    npy, zipped = bold_submission.write(predicted, samples, out, args.parcels)
    clips = sum(len(c) for c in samples.values())
    log.say(f"{clips} clips of {len(samples)} subjects, checked: {npy} and {zipped}")


def of_merging(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", required=True, help="plan: base, movies, networks, atlas")
    parser.add_argument("--output_dir", default=".", help="that output_path counts from")
    parser.add_argument("--data_dir", help="for the expected samples (default: those of the base)")
    parser.add_argument("--test_names", nargs="+", default=[])
    parser.add_argument("--parcels", type=int, default=1000, help="that are expected")


def merge(args) -> None:
    """Graft films and networks of other submissions into a base."""
    from ndt3_dist.tasks.fmri import bold_merge, bold_submission
    from ndt3_dist.tasks.fmri.clips.sample_numbers import read_samples

    plan = bold_merge.load_plan(args.config)
    found = bold_merge.merge(plan, Path(args.config).parent)
    samples = {s: {c: len(v) for c, v in clips.items()} for s, clips in found.items()}
    if args.data_dir:
        samples = read_samples(args.data_dir, [*found], args.test_names)
    out = Path(args.output_dir, plan.output_path or "merged").with_suffix("")
    npy, zipped = bold_submission.write(found, samples, out, args.parcels)
    log.say(f"merged into {npy} and {zipped}")


def of_scoring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("submission", help=".npy or .zip")
    parser.add_argument("--data_dir", required=True, help="with the BOLD of the same clips")
    parser.add_argument(
        "--networks", metavar="TABLE", help="the network of each parcel, one a line"
    )


def score(args) -> None:
    """Score a submission as the official scorer does."""
    from ndt3_dist.shards.summary import text_table
    from ndt3_dist.tasks.fmri import bold_submission, parcel_score
    from ndt3_dist.tasks.fmri.clips.bold_runs import BoldRuns
    from ndt3_dist.tasks.fmri.parcel_networks import read_networks

    found = bold_submission.read(args.submission)
    runs = BoldRuns(args.data_dir)
    asked = {clip for clips in found.values() if isinstance(clips, dict) for clip in clips}
    truth = {s: runs.clips_of(s, asked) for s in runs.subjects}
    expected = {s: {c: len(v) for c, v in clips.items()} for s, clips in truth.items()}
    bold_submission.check(found, expected, runs.parcels, args.submission)
    scored = parcel_score.score(found, truth)
    log.say(
        text_table([shown(s, {**f, "mean": scored.subjects[s]}) for s, f in scored.films.items()])
    )
    if args.networks:
        networks = read_networks(args.networks, runs.parcels)
        by = {s: parcel_score.by_network(scored.parcels_of(s), networks) for s in scored.by_parcel}
        log.say(text_table([shown(s, values) for s, values in by.items()]))
    log.say(f"score {scored.value:.4f}")


def shown(subject: str, values: dict[str, float]) -> dict[str, str]:
    """A row of a table."""
    return {"subject": subject, **{name: f"{value:.4f}" for name, value in values.items()}}


def of_indexing(parser: argparse.ArgumentParser) -> None:
    of_training(parser)
    parser.add_argument("--out", required=True, help="folder for a small file of each clip")


def index(args) -> None:
    """Write a small file of each clip, for `ndt3 preprocess --recipe fmri.yaml`."""
    config = config_of(args)
    from ndt3_dist.tasks.fmri.clips.clip_reader import write_clips
    from ndt3_dist.tasks.fmri.clips.clip_source import TreeSource
    from ndt3_dist.tasks.fmri.encoders.encode import open_source

    source = open_source(config)
    if not isinstance(source, TreeSource):
        raise BadInput("data.corpus is a corpus already; expected features_dir, data_dir, streams")
    written = write_clips(source, args.out)
    log.say(f"{len(written)} clips in {args.out}; subjects, in order: {', '.join(source.subjects)}")


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
        from ndt3_dist.tasks.fmri import fmri_search

    base, asked = fmri_search.settle(config, asked, args.space)
    out = Path(args.out or Path(config.run.dir) / f"{config.run.name}_search")

    def say(search, trial) -> None:
        settings = " ".join(f"{k}={v}" for k, v in trial.settings.items())
        what = f"failed: {trial.error}" if trial.error else f"held-out r {trial.score:.4f}"
        log.say(f"trial {trial.number} {settings}: {what}")

    _, trials = fmri_search.run_search(
        base, asked, out, args.at_once, args.gpus_per_trial, args.threads, say
    )
    log.say(text_table(outcome.table_rows(asked, trials)))
    log.say(outcome.headline(asked, trials))
    if best := outcome.best_of(asked, trials):
        config = base.config(best.settings, "best", name=f"{config.run.name}_best")
        path = out / outcome.BEST
        from ndt3_dist.cluster.search.base import as_yaml

        path.write_text(f"# ndt3 fmri fit --config {path}\n{as_yaml(config)}")
        log.say(str(path))


def of_features(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="YAML file: stimuli, models, layers")
    parser.add_argument("overrides", nargs="*", metavar="key=value")


def features(args) -> int:
    """Make features of films, sound and transcripts by models of Hugging Face, over Ray."""
    from ndt3_dist.config import load_config
    from ndt3_dist.tasks.fmri.extract.extract_config import ExtractConfig
    from ndt3_dist.tasks.fmri.extract.extraction import extract

    config = load_config(ExtractConfig, find_file(args.config, CONFIGS), args.overrides)
    found = extract(config)
    failed = len(found["failed"])
    log.say(
        f"{found['made']} made, {found['kept']} were there, {failed} failed; below {config.out}"
    )
    return 1 if failed else 0


def of_showing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="folder of a run that has ended")
    parser.add_argument("--networks", metavar="TABLE", help="network of each parcel, one a line")
    parser.add_argument("--atlas", metavar="NII", help="parcellation: draws each subject's brain")
    parser.add_argument("--out", help="folder (default: RUN/page)")


def show(args) -> None:
    """Draw what a run has learned on its held-out films: by parcel, network, lag and stream."""
    with log.waiting("loading torch"):
        from ndt3_dist.tasks.fmri import encoder_page
        from ndt3_dist.tasks.fmri.brain_picture import save_brain
        from ndt3_dist.tasks.fmri.parcel_networks import read_networks

    out = Path(args.out or Path(args.run) / "page")
    networks = read_networks(args.networks) if args.networks else []
    page, scored = encoder_page.write_page(args.run, out, networks)
    log.say(str(page))
    for subject in scored.by_parcel if args.atlas else ():
        path = out / f"brain_{subject}.png"
        save_brain(scored.parcels_of(subject), args.atlas, path, f"{subject}, held-out r")
        log.say(str(path))


VERBS = {
    "train": train,
    "retrain": retrain,
    "fit": fit,
    "submit": submit,
    "merge": merge,
    "score": score,
    "index": index,
    "sweep": sweep,
    "features": features,
    "show": show,
}
ARGUMENTS = {
    "train": of_training,
    "retrain": of_retraining,
    "fit": of_training,
    "submit": of_submitting,
    "merge": of_merging,
    "score": of_scoring,
    "index": of_indexing,
    "sweep": of_sweeping,
    "features": of_features,
    "show": of_showing,
}


def algonauts_train() -> None:
    """Entry point of the console script of that name, as those below."""
    verb("train")


def algonauts_retrain() -> None:
    verb("retrain")


def algonauts_fit() -> None:
    verb("fit")


def algonauts_submit() -> None:
    verb("submit")


def verb(name: str) -> None:
    sys.argv = [sys.argv[0], name, *sys.argv[1:]]
    log.run_program(main)


if __name__ == "__main__":
    log.run_program(main)
