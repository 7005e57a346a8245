"""Search settings of fine-tunes or small pretrainings with Ray Tune; a killed search goes on.

A space.yaml names keys of the config and what each may be (docs/cluster.md). The table, best.yaml
and search.html are of validation scores; no test split is looked at.

Example:
    python launch/search.py --config tune_demo.yaml --init exports/demo --space space.yaml --seeds 3
    python launch/search.py --config demo.yaml --space space.yaml --trials 20 --at-once 4 \
        --gpus-per-trial .25 data.corpus=corpora/mine validation.every_steps=100
"""

import argparse
import os
from pathlib import Path

from ndt3_dist import log
from ndt3_dist.config import find_file, load_config
from ndt3_dist.errors import BadInput, RankFailed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="YAML file or name of a shipped config")
    parser.add_argument("--space", required=True, help="YAML file: what is searched, and how")
    parser.add_argument("--trials", type=int, help="settings to try (default: the space's)")
    parser.add_argument("--seeds", type=int, help="runs of each setting (default: the space's)")
    parser.add_argument("--out", help="folder of the search (default: RUN.DIR/RUN.NAME_search)")
    parser.add_argument("--init", metavar="EXPORT", help="export that every run starts from")
    parser.add_argument(
        "--scratch", action="store_true", help="random weights in the export's architecture"
    )
    parser.add_argument("--at-once", type=int, help="trials at the same time (default: 1 a device)")
    parser.add_argument(
        "--gpus-per-trial", type=float, help="or a fraction, as .25 (default: 1 where there is one)"
    )
    parser.add_argument("--threads", type=int, help="of a run (default: cores / trials at once)")
    parser.add_argument(
        "--no-failures", action="store_true", help="exit with 1 where any setting failed"
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    args = parser.parse_intermixed_args()
    for name in ("trials", "seeds", "at_once", "threads"):
        if (getattr(args, name) or 1) < 1:
            parser.error(f"--{name.replace('_', '-')}: expected at least 1")
    if (args.gpus_per_trial or 0) < 0:
        parser.error("--gpus-per-trial: expected 0 or more")
    from ndt3_dist.cluster.search import ask, base, record, space

    told = [f"{k}={v}" for k in ("trials", "seeds") if (v := getattr(args, k)) is not None]
    asked = load_config(space.Space, find_file(args.space, "configs"), told)
    start = base.Base.load(find_file(args.config, "configs"), args.overrides)
    start, asked = base.with_metric(start, asked)
    if args.scratch and start.kind == "pretrain":
        raise BadInput("--scratch is for fine-tunes; a pretraining without --init is from scratch")
    base.check_space(start, asked, args.init, args.space)
    base.check_steps(start, asked)
    if asked.method == "bayes":
        ask.check_optuna()
    run = start.values["run"]
    out = Path(args.out or Path(run["dir"]) / f"{run['name']}_search").absolute()
    begun = {"config": start.values, "init": args.init, "scratch": args.scratch}
    with record.Record(out, {**asked.model_dump(mode="json"), **begun}) as kept:
        failed = go(args, start, asked, kept)
    if failed == asked.trials:
        first = kept.trials[0]
        raise RankFailed(f"all {failed} settings failed; trial 0 ({kept.folder(0)}): {first.error}")
    if failed and args.no_failures:
        raise RankFailed(f"{failed} of {asked.trials} settings failed (--no-failures)")


def go(args, start, asked, kept) -> int:
    """Run what is left, and show what came of it; returns how many settings failed."""
    from ndt3_dist.cluster.search.driver import Search
    from ndt3_dist.cluster.search.outcome import (
        best_of,
        headline,
        table_rows,
        write_best,
        write_page,
    )
    from ndt3_dist.shards.summary import text_table

    init = args.init
    if init:
        with log.waiting(f"looking at {init}"):
            from ndt3_dist.checkpoint.local_export import local_export

            init = str(Path(local_export(init)).absolute())
    gpus, at_once = devices(args)
    threads = args.threads or max(1, len(os.sched_getaffinity(0)) // at_once)
    search = Search(start, asked, kept, init, args.scratch, threads)
    log.say(
        f"search {kept.out}: {asked.trials} settings by {asked.method}, {asked.seeds} seed"
        f"{'s' * (asked.seeds > 1)} each, validation {asked.metric} ({asked.direction}), "
        f"{at_once} at once, {gpus:g} GPUs and {threads} threads each"
    )

    over = sum(bool(t.ended) for t in kept.trials)

    def say(trial) -> None:
        what = trial.error and f"failed: {trial.error} ({kept.folder(trial.number)})"
        what = what or f"{trial.ended} at step {trial.step}, {asked.metric} {trial.score:.4f}"
        settings = " ".join(f"{k}={v}" for k, v in trial.settings.items())
        (log.warn if trial.error else log.say)(f"trial {trial.number} {settings}: {what}")
        shown.add()

    if over < asked.trials:
        from ndt3_dist.cluster.search import tuning

        counted = log.counting("searching, settings", asked.trials, over)
        with tuning.tune_ray("local", at_once) as pool, counted as shown:
            tuning.search(search, at_once, gpus, pool.folder, say)
    log.say(text_table(table_rows(asked, kept.trials)))
    log.say(headline(asked, kept.trials))
    if best := best_of(asked, kept.trials):
        log.say(str(write_best(search, best)))
    log.say(str(write_page(search, kept.trials)))
    return sum(t.ended == "failed" for t in kept.trials)


def devices(args) -> tuple[float, int]:
    """GPUs of each trial, and how many trials at once."""
    with log.waiting("loading torch"):
        import torch

    found = torch.cuda.device_count()
    gpus = args.gpus_per_trial if args.gpus_per_trial is not None else float(found > 0)
    fits = int(found / gpus) if gpus else 1
    at_once = args.at_once or max(1, fits)
    if gpus and at_once > fits:
        raise BadInput(
            f"--at-once {at_once} x --gpus-per-trial {gpus:g}: this machine has {found} GPUs"
        )
    return gpus, at_once


if __name__ == "__main__":
    log.run_program(main)
