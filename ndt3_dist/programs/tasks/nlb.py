"""The Neural Latents Benchmark: data, training, searches, ensembles, submissions and their scores.

docs/nlb.md has a table of what the winning entry's scripts are called here.

Example:
    python launch/nlb.py data mc_maze_small --source 000140 --out nlb/small
    python launch/nlb.py search mc_maze_small --data nlb/small --out nlb/small_search \\
        --samples 120 --seed 42 --gpus-per-trial .5
    python launch/nlb.py ensemble --runs nlb/small_search --data nlb/small --out nlb/small_test.h5
    python launch/nlb.py validate nlb/small_test.h5 --runs nlb/small_search --data nlb/small
    python launch/nlb.py evaluate nlb/small_val.h5 --target nlb/small/val/target.h5
"""

import argparse
import json
import os
import sys
from pathlib import Path

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput, RankFailed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, what: str, call) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=what, description=what)
        found.set_defaults(call=call)
        return found

    made = command("data", "tensors and corpus of a dataset, of NWB files or tensors", make)
    made.add_argument("dataset", help="mc_maze, mc_rtt, area2_bump, dmfc_rsg, mc_maze_large, ...")
    made.add_argument("--source", required=True, help="dandiset's folder, NWB file, or tensors .h5")
    made.add_argument("--out", required=True, help="folder to make")
    made.add_argument("--bin-ms", type=int, default=5, help="5 or 20")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="num_workers, ray_address")
    said = command("config", "print the config of a training as YAML", config)
    said.add_argument("dataset")
    said.add_argument("--data", required=True, help="folder of ndt3 nlb data")
    said.add_argument("overrides", nargs="*", metavar="section.key=value")
    trained = command("train", "train one NDT1; one that was killed goes on", train)
    trained.add_argument("dataset")
    trained.add_argument("--data", required=True, help="folder of ndt3 nlb data")
    trained.add_argument("--out", required=True, help="folder of the run")
    trained.add_argument("overrides", nargs="*", metavar="section.key=value")
    sought = command("search", "search settings with Ray Tune; one that was killed goes on", search)
    sought.add_argument("dataset")
    sought.add_argument("--data", required=True, help="folder of ndt3 nlb data")
    sought.add_argument("--out", required=True, help="folder of the search")
    sought.add_argument("--samples", type=int, default=100, help="settings to try")
    sought.add_argument("--seed", type=int, default=42, help="of what is drawn")
    sought.add_argument("--method", choices=("bayes", "random", "asha"), default="bayes")
    sought.add_argument("--first-steps", type=int, default=0, help="of asha: steps before an end")
    sought.add_argument("--reduction", type=int, default=3, help="of asha: one in so many goes on")
    sought.add_argument("--space", help="YAML file with `space`, instead of the dataset's own")
    sought.add_argument("--at-once", type=int, help="trials at once (default: 1 a device)")
    sought.add_argument("--gpus-per-trial", type=float, help="or a fraction, as .5")
    sought.add_argument("--threads", type=int, help="of a trial (default: cores / trials at once)")
    sought.add_argument("overrides", nargs="*", metavar="section.key=value")
    joined = command("ensemble", "average the best snapshots and write a submission", ensemble)
    joined.add_argument("--runs", required=True, help="folder of a search, or of trainings")
    joined.add_argument("--data", required=True, help="folder of ndt3 nlb data")
    joined.add_argument("--out", required=True, help="submission to write (.h5)")
    joined.add_argument("--phase", choices=("val", "test"), default="test")
    joined.add_argument("--members", type=int, default=0, help="how many (default: by val trials)")
    joined.add_argument("--any-corpus", action="store_true", help="take snapshots of other corpora")
    checked = command("validate", "recompute a submission from its snapshots", validate)
    checked.add_argument("submission")
    checked.add_argument("--runs", required=True, help="folder with ensemble.json")
    checked.add_argument("--data", required=True, help="folder of ndt3 nlb data")
    checked.add_argument("--phase", choices=("val", "test"), default="test")
    checked.add_argument("--rtol", type=float, default=1e-5, help="relative difference allowed")
    scored = command("evaluate", "score a submission by the benchmark's metrics", evaluate)
    scored.add_argument("submission")
    scored.add_argument("--target", required=True, help="target .h5 of ndt3 nlb data or nlb_tools")
    taken = command("convert", "published checkpoints of NDT1 (.pth) as snapshots", convert)
    taken.add_argument("dataset")
    taken.add_argument("--source", required=True, help=".pth, or a folder of them")
    taken.add_argument("--data", required=True, help="folder of ndt3 nlb data")
    taken.add_argument("--out", required=True, help="folder of the snapshots")
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in commands.choices:  # its overrides may lie between its options
        args = commands.choices[name].parse_intermixed_args(sys.argv[2:])
    else:
        args = parser.parse_args()
    if args.call in (train, search, ensemble, validate, convert):
        with log.waiting("loading torch"):
            import torch  # noqa: F401
    return args.call(args) or 0


def make(args) -> None:
    from ndt3_dist.tasks.nlb.nlb_data import make_data
    from ndt3_dist.tasks.nlb.nlb_datasets import dataset_of

    data, manifest = make_data(
        dataset_of(args.dataset), args.source, args.out, args.bin_ms, args.overrides
    )
    for session in manifest.sessions:
        kept = ", ".join(f"{w.kept} {split}" for split, w in session.windows.items())
        units = ", ".join(f"{a.channels} {a.name}" for a in session.arrays)
        log.say(f"{session.id}: {kept} trials; {units} units; bins of {data.bin_ms} ms")
    log.say(str(data.path))


def base_for(args, run: str, folder: str):
    """The data and the config that a command starts from."""
    from ndt3_dist.shards.manifest import read_manifest
    from ndt3_dist.tasks.nlb.nlb_data import DataFolder
    from ndt3_dist.tasks.nlb.nlb_search import base_of
    from ndt3_dist.tasks.nlb.nlb_settings import config_of

    data = DataFolder.open(args.data)
    corpus = str(Path(data.corpus).absolute())
    values = config_of(args.dataset, corpus, read_manifest(corpus), run, folder)
    return data, base_of(values, args.overrides)


def config(args) -> None:
    import yaml

    _, base = base_for(args, args.dataset, "runs")
    print(yaml.safe_dump(base.values, sort_keys=False), end="")


def train(args) -> int:
    from ndt3_dist.config import check
    from ndt3_dist.tasks.nlb.nlb_training import train as train_run
    from ndt3_dist.train.pretrain_config import PretrainConfig

    out = Path(args.out)
    _, base = base_for(args, out.name, str(out.parent))
    found = train_run(check(PretrainConfig, base.values, "the config"))
    log.say(json.dumps(found))
    return 75 if found["stopped"] else 0


def search(args) -> None:
    from ndt3_dist import plain_yaml
    from ndt3_dist.cluster.search.task_search import run_search
    from ndt3_dist.programs.cluster.search import devices
    from ndt3_dist.shards.summary import text_table
    from ndt3_dist.tasks.nlb import nlb_search

    for name in ("samples", "at_once", "threads"):
        if (getattr(args, name) or 1) < 1:
            raise BadInput(f"--{name.replace('_', '-')}: expected at least 1")
    own = plain_yaml.load(Path(args.space).read_text()) if args.space else None
    own = own.get("space", own) if isinstance(own, dict) else own
    _, base = base_for(args, "trial", "runs")
    asha = args.first_steps, args.reduction
    space = nlb_search.ask(args.dataset, args.samples, args.seed, args.method, asha, own)
    nlb_search.check_search(base, space)
    gpus, at_once = devices(args)
    threads = args.threads or max(1, len(os.sched_getaffinity(0)) // at_once)
    log.say(
        f"search {args.out}: {space.trials} settings by {space.method}, seed {args.seed}, {at_once}"
        f" at once, {gpus:g} GPUs and {threads} threads each"
    )
    with log.counting("searching, settings", space.trials) as shown:

        def say(_, trial) -> None:
            what = trial.error or f"{trial.ended} at step {trial.step}, loss {trial.score:.4f}"
            (log.warn if trial.error else log.say)(f"trial {trial.number}: {what}")
            shown.add()

        trials = run_search(base, space, Path(args.out), at_once, gpus, threads, say)
    ranked = sorted(trials, key=lambda t: (t.ended != "done", t.score))
    rows = [
        {"trial": t.number, "loss": f"{t.score:.4f}", "end": t.error or t.ended}
        | {k.partition(".")[2]: f"{v:.4g}" for k, v in t.settings.items()}
        for t in ranked
    ]
    log.say(text_table(rows))
    failed = sum(t.ended == "failed" for t in trials)
    if failed == len(trials):
        raise RankFailed(f"all {failed} settings failed; trial 0: {trials[0].error}")


def ensemble(args) -> None:
    from ndt3_dist.shards.summary import text_table
    from ndt3_dist.tasks.nlb import nlb_ensemble
    from ndt3_dist.tasks.nlb.nlb_data import DataFolder
    from ndt3_dist.tasks.nlb.nlb_h5 import write_h5
    from ndt3_dist.tasks.nlb.nlb_snapshots import candidates
    from ndt3_dist.tasks.nlb.nlb_submission import check_rates

    runs, out, data = Path(args.runs), Path(args.out), DataFolder.open(args.data)
    if out.exists():
        raise BadInput(f"{out}: exists; choose another --out or remove it")
    found = candidates(runs)
    if not args.any_corpus:
        nlb_ensemble.check_corpus(found, data)
    choice, members = nlb_ensemble.choose_of(found, data, args.members)
    log.say(text_table(nlb_ensemble.table_rows(choice)))
    rates = nlb_ensemble.rates_by(members, data, args.phase)
    inputs = data.tensors(args.phase, "train_input") | data.tensors(args.phase, "eval_input")
    check_rates(rates, inputs, data.dataset, f"the ensemble of {args.runs}")
    nlb_ensemble.write_list(runs / nlb_ensemble.LIST, choice, members, runs, data)
    log.say(str(write_h5(out, {data.key: rates})))
    log.say(nlb_ensemble.headline(choice))


def validate(args) -> int:
    from ndt3_dist.tasks.nlb.nlb_data import DataFolder
    from ndt3_dist.tasks.nlb.nlb_ensemble import rates_by, read_list
    from ndt3_dist.tasks.nlb.nlb_h5 import read_h5
    from ndt3_dist.tasks.nlb.nlb_submission import check_rates, differences, group_of

    data = DataFolder.open(args.data)
    group = group_of(read_h5(args.submission), data.key, args.submission)
    inputs = data.tensors(args.phase, "train_input") | data.tensors(args.phase, "eval_input")
    check_rates(group, inputs, data.dataset, args.submission)
    _, members = read_list(Path(args.runs))
    said = [
        f"member {m.name} ({m.path}) has other weights than when the ensemble was made"
        for m in members
        if storage.sha256_file(m.path) != m.sha256
    ]
    said += differences(group, rates_by(members, data, args.phase), args.rtol)
    if said:
        raise BadInput(f"{args.submission} is not that of {args.runs}: {'; '.join(said)}")
    log.say(
        f"{args.submission}: the rates are those of its {len(members)} snapshots, within "
        f"{args.rtol:g}"
    )
    return 0


def evaluate(args) -> None:
    from ndt3_dist.shards.summary import text_table
    from ndt3_dist.tasks.nlb.nlb_h5 import read_h5
    from ndt3_dist.tasks.nlb.nlb_submission import evaluate as evaluated

    found = evaluated(read_h5(args.submission), read_h5(args.target), args.submission)
    rows = [{"dataset": k, **{n: f"{v:.4f}" for n, v in s.items()}} for k, s in found.items()]
    log.say(text_table(rows))
    print(json.dumps(found))


def convert(args) -> None:
    from ndt3_dist.tasks.nlb.nlb_data import DataFolder
    from ndt3_dist.tasks.nlb.nlb_published import import_checkpoint

    data, source = DataFolder.open(args.data), Path(args.source)
    files = sorted(source.rglob("*.pth")) if source.is_dir() else [source]
    if not files:
        raise BadInput(f"{source} holds no .pth; expected the unpacked archive")
    heldin = data.tensors("val", "eval_input")["eval_spikes_heldin"].shape[2]
    for path in log.progress(files, "converting, checkpoints"):
        log.say(str(import_checkpoint(path, args.dataset, heldin, Path(args.out), data.bin_ms)))


if __name__ == "__main__":
    log.run_program(main)
