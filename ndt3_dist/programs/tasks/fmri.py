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
from ndt3_dist.config import find_file
from ndt3_dist.errors import BadInput
from ndt3_dist.programs.tasks._fmri_training import (
    CONFIGS,
    config_of,
    find_run,
    fit,
    folder_of_runs,
    of_retraining,
    of_sweeping,
    of_training,
    retrain,
    sweep,
    train,
)


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
    code = VERBS[args.verb](args)
    return code if isinstance(code, int) else None


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
