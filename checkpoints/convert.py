"""Turn a run's sharded checkpoint into portable weights.

Example:
    python checkpoints/convert.py export runs/demo exports/demo
    python checkpoints/convert.py export runs/demo exports/demo-bf16 --step 1200 --dtype bf16
"""

import argparse

from ndt3_dist import log


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    export = verbs.add_parser("export", help="sharded checkpoint -> safetensors + json")
    export.add_argument("run", help="folder of a run")
    export.add_argument("out", help="folder to make")
    export.add_argument("--step", type=int, help="default: the newest intact checkpoint")
    export.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    args = parser.parse_args()
    from ndt3_dist.checkpoint.export import export as write

    config = write(args.run, args.out, args.step, args.dtype, log.say)
    log.say(
        f"{args.out}: {config['parameters']:,} parameters in {config['dtype']}, "
        f"step {config['trained']['step']} of {args.run}"
    )


if __name__ == "__main__":
    log.run_program(main)
