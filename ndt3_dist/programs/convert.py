"""Turn a run's checkpoint into portable weights, NDT3's own there and back, or exports into a mean.

Example:
    python checkpoints/convert.py export runs/demo exports/demo
    python checkpoints/convert.py export runs/demo exports/demo-bf16 --step 1200 --dtype bf16
    python checkpoints/convert.py import ndt3_45m.ckpt exports/ndt3_45m
    python checkpoints/convert.py to-ndt3 exports/tuned tuned.ckpt --like ndt3_45m.ckpt
    python checkpoints/convert.py average exports/ndt3_45m exports/tuned exports/between --alpha 0.5
"""

import argparse
import re

from ndt3_dist import log


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    export = verbs.add_parser("export", help="sharded checkpoint -> safetensors + json")
    export.add_argument("run", help="folder of a run")
    export.add_argument("out", help="folder to make")
    export.add_argument("--step", help="a number, or best; default: the newest intact checkpoint")
    export.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    export.add_argument(
        "--verify", action="store_true", help="read it again and print the sha256 of each tensor"
    )
    import_ = verbs.add_parser(
        "import",
        help="checkpoint of NDT3's own code -> export",
        epilog="Example: python checkpoints/convert.py import ndt3_45m.ckpt exports/ndt3_45m",
    )
    import_.add_argument(
        "ckpt",
        help="Lightning checkpoint, a file or DeepSpeed's folder; nothing that it names is run",
    )
    import_.add_argument("out", help="folder to make")
    import_.add_argument(
        "--allow-partial", action="store_true", help="take what fits, initialise the rest anew"
    )
    import_.add_argument(
        "--with-optimizer", action="store_true", help="also AdamW's moments: optimizer.safetensors"
    )
    back = verbs.add_parser(
        "to-ndt3",
        help="export -> checkpoint for NDT3's own code",
        epilog="Example: python checkpoints/convert.py to-ndt3 exports/tuned tuned.ckpt "
        "--like ndt3_45m.ckpt",
    )
    back.add_argument("export", help="folder of an export, s3://, https:// or hf://ORG/NAME")
    back.add_argument("out", help="file to make")
    back.add_argument(
        "--like",
        metavar="CKPT",
        help="copy this checkpoint with other weights and a fresh optimiser; default: a plain "
        "state dict under upstream's names",
    )
    mean = verbs.add_parser(
        "average",
        help="weights between exports of one architecture -> export",
        epilog="Example: python checkpoints/convert.py average exports/ndt3_45m exports/tuned "
        "exports/between --alpha 0.5",
    )
    mean.add_argument(
        "exports",
        nargs="+",
        metavar="EXPORT",
        help="folder, s3://, https:// or hf://ORG/NAME; the result decodes what the last decodes",
    )
    mean.add_argument("out", help="folder to make")
    how = mean.add_mutually_exclusive_group()
    how.add_argument(
        "--alpha", type=float, help="of two: share of the way from the first (0) to the second (1)"
    )
    how.add_argument(
        "--weights", type=float, nargs="+", metavar="W", help="of each, shared out (default: alike)"
    )
    args = parser.parse_args()
    with log.waiting("loading torch"):
        import torch  # noqa: F401  (all verbs need it)
    run = {"export": run_export, "import": run_import, "to-ndt3": run_to_ndt3}
    {**run, "average": run_average}[args.verb](args)


def run_export(args: argparse.Namespace) -> None:
    from ndt3_dist.checkpoint.export import export

    config = export(args.run, args.out, step_number(args.run, args.step), args.dtype, log.say)
    log.say(
        f"{args.out}: {config['parameters']:,} parameters in {config['dtype']}, "
        f"step {config['trained']['step']} of {args.run}"
    )
    if args.verify:
        from ndt3_dist.checkpoint.export import verify_export

        for name, shape, sha256 in verify_export(args.run, args.out):
            log.say(f"{sha256}  {name} {tuple(shape)}")


def step_number(run: str, step: str | None) -> int | None:
    """The step that --step means; None = the newest intact one."""
    from ndt3_dist.checkpoint.steps import newest
    from ndt3_dist.errors import BadInput

    if step == "best":
        checkpoint = newest(run, log.warn)
        best = checkpoint.meta["best"] if checkpoint else None
        if not best or not best["step"]:
            raise BadInput(f"{run}: no step is validated; see validation.every_steps")
        log.say(f"{best['metric']} was best at step {best['step']}: {best['value']:.4f}")
        return best["step"]
    if step is not None and not step.isdigit():
        raise BadInput(f"--step {step}: expected a number or best")
    return None if step is None else int(step)


def run_import(args: argparse.Namespace) -> None:
    from ndt3_dist.shards.summary import text_table
    from ndt3_dist.upstream.from_ndt3 import import_checkpoint

    with log.waiting(f"importing {args.ckpt}"):
        config, rows = import_checkpoint(
            args.ckpt, args.out, args.allow_partial, args.with_optimizer
        )
    log.say(text_table(by_layer(rows)))
    counts = {word: sum(r["outcome"].startswith(word) for r in rows) for word in ("loaded", "new")}
    optimizer = config["trained"].get("optimizer")
    log.say(
        f"{args.out}: {config['parameters']:,} parameters, {counts['loaded']} tensors loaded, "
        f"{counts['new']} new; step {config['trained']['step']} of {args.ckpt}"
        + (f"; {optimizer['file']} after {optimizer['step']} steps" if optimizer else "")
    )


def by_layer(rows: list[dict]) -> list[dict]:
    """Rows of outcomes, those that differ in the layer alone as one."""
    merged: dict[tuple, dict] = {}
    for row in rows:
        texts = {k: re.sub(r"(blocks|layers)\.\d+\.", r"\1.*.", v) for k, v in row.items()}
        found = merged.setdefault(tuple(texts.values()), {**texts, "tensors": 0})
        found["tensors"] += 1
    return list(merged.values())


def run_to_ndt3(args: argparse.Namespace) -> None:
    from ndt3_dist.checkpoint.local_export import local_export
    from ndt3_dist.upstream.to_ndt3 import to_ndt3

    export = local_export(args.export)
    with log.waiting(f"writing {args.out}"):
        done = to_ndt3(export, args.out, args.like)
    log.say(f"{args.out}: {done['written']} entries of the state dict from {args.export}")
    if args.like:
        log.say(
            f"epoch, steps and settings are still those of {args.like}; "
            f"{done['reset']} tensors of its optimiser are zero, as in a new AdamW"
        )
    else:
        log.say("no settings in it; --like CKPT makes a checkpoint that NDT3's own loader opens")


def run_average(args: argparse.Namespace) -> None:
    from ndt3_dist.checkpoint.average import average
    from ndt3_dist.checkpoint.local_export import local_export
    from ndt3_dist.errors import BadInput

    weights = args.weights or [1.0] * len(args.exports)
    if args.alpha is not None:
        if len(args.exports) != 2 or not 0 <= args.alpha <= 1:
            raise BadInput(
                f"--alpha {args.alpha:g} of {len(args.exports)} exports; expected 0 to 1, of two "
                "(--weights for more)"
            )
        weights = [1 - args.alpha, args.alpha]
    config = average([str(local_export(export)) for export in args.exports], args.out, weights)
    shares = (part["share"] for part in config["trained"]["averaged"])
    parts = (f"{share:.4g} of {e}" for share, e in zip(shares, args.exports, strict=True))
    log.say(f"{args.out}: {config['parameters']:,} parameters, {', '.join(parts)}")


if __name__ == "__main__":
    log.run_program(main)
