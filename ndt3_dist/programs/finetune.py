"""Fine-tune an export on a session or several, in a single process on a GPU or a CPU.

One that was killed goes on with the same command; at most five minutes of it are lost.

Example:
    python launch/finetune.py --config tune_demo.yaml --init exports/demo data.session=demo-A-10
    python launch/finetune.py --config tune_demo.yaml --init exports/demo --scratch run.name=scratch
    python launch/finetune.py --config stevenson.yaml data.corpus=corpora/stevenson
    python launch/finetune.py --config tune_session.yaml --init exports/ndt3_45m \
        "data.covariates=[x, y]" "train.freeze=[spikes]" lora.rank=8
    python launch/finetune.py --config tune_session.yaml --init exports/ndt3_45m \
        "data.sessions=[mine-A-*]" "data.replay.sessions=[mine-B-*]" "train.wise=[0, .5, 1]"
    python launch/finetune.py --config tune_demo.yaml --init runs/day0/export \
        data.session=mine-A-07 train.objective=spikes
"""

import argparse
import math

from ndt3_dist import log
from ndt3_dist.config import find_file, load_config
from ndt3_dist.tune.tune_config import TuneConfig


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="YAML file or name of a shipped config")
    parser.add_argument(
        "--init",
        metavar="EXPORT",
        help="folder, s3://, https:// or hf://ORG/NAME to start from (default: the config's model)",
    )
    parser.add_argument(
        "--scratch", action="store_true", help="random weights in the export's architecture"
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    args = parser.parse_intermixed_args()
    config = load_config(TuneConfig, find_file(args.config, "configs"), args.overrides)
    begun = f"from {args.init or 'no export'}{' (its architecture)' * args.scratch}"
    which = ", ".join(config.data.sessions) or config.data.session or "(the only one)"
    log.say(f"fine-tune {config.run.name} {begun} on session {which} of {config.data.corpus}")
    with log.waiting("loading torch"):
        from ndt3_dist.checkpoint.local_export import local_export
        from ndt3_dist.tune.finetune import finetune

    init = str(local_export(args.init)) if args.init else None
    result = finetune(config, init, args.scratch)
    if result["stopped"]:
        log.say(f"stopped ({result['stopped']}); the same command goes on")
        return
    word = "R2" if result["metric"] == "val_r2" else "bits per spike"
    how = f"best step {result['best_step']} of {result['steps']}"
    if result["wise"] is not None:
        how += f", {result['wise']:g} of the way from the export"
    where = f"on the held-back part; export at {result['export']}"
    if not result["steps"]:
        how, where = "no step", where.replace("part", "folds")
    for session, score in result["by_session"].items():
        log.say(f"{session}: {word} {math.nan if score is None else score:.4f}")
    log.say(f"{how}, {word} {result['score']:.4f} {where}")


if __name__ == "__main__":
    log.run_program(main)
