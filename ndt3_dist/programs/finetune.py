"""Fine-tune an export on one session, in a single process on a GPU or a CPU.

One that was killed goes on with the same command; at most five minutes of it are lost.

Example:
    python launch/finetune.py --config tune_demo.yaml --init exports/demo data.session=demo-A-10
    python launch/finetune.py --config tune_demo.yaml --init exports/demo --scratch run.name=scratch
    python launch/finetune.py --config stevenson.yaml data.corpus=corpora/stevenson
    python launch/finetune.py --config tune_session.yaml --init exports/ndt3_45m \
        "data.covariates=[x, y]" "train.freeze=[spikes]" lora.rank=8
"""

import argparse

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
    log.say(
        f"fine-tune {config.run.name} {begun} on session {config.data.session or '(the only one)'} "
        f"of {config.data.corpus}"
    )
    with log.waiting("loading torch"):
        from ndt3_dist.checkpoint.local_export import local_export
        from ndt3_dist.tune.finetune import finetune

    init = str(local_export(args.init)) if args.init else None
    result = finetune(config, init, args.scratch)
    if result["stopped"]:
        log.say(f"stopped ({result['stopped']}); the same command goes on")
        return
    score = "R2" if result["metric"] == "val_r2" else "bits per spike"
    how = f"best step {result['best_step']} of {result['steps']}, {score} {result['best']:.4f}"
    where = f"on the held-back part; export at {result['export']}"
    if not result["steps"]:
        how, where = f"no step, R2 {result['r2_val']:.4f}", where.replace("part", "folds")
    log.say(f"{how} {where}")


if __name__ == "__main__":
    log.run_program(main)
