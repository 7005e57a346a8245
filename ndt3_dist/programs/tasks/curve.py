"""How much data a session's decoder needs, and what pretraining saves: scores by share of a split.

Decoders are fitted to nested shares of the fit split at several seeds and scored on the same test
bins. The same command goes on where it was killed; more decoders or shares may be asked for later.
FOLDER has table.csv, curve.png, curve.html and cells/ (docs/curve.md).

Example:
    python launch/curve.py --init exports/demo --corpus corpora/demo/corpus --out curves/demo
    python launch/curve.py --init exports/mine --corpus corpora/mine --session mine-A-03 \\
        --minutes 1,3,10 --seeds 5 --decoders pretrained,scratch,ridge --out curves/mine
    python launch/curve.py --decoders ridge,wiener,gru --corpus corpora/mine --workers 0 \\
        --shares 10,100 --out curves/baselines gru.steps=2000
"""

import argparse
import os
from pathlib import Path

from ndt3_dist import log, storage
from ndt3_dist.config import check, find_file, load_config, parse_scalar
from ndt3_dist.errors import BadInput, RankFailed


def parser_of() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--init", metavar="EXPORT", help="folder, s3://, https:// or hf://ORG/NAME to start from"
    )
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--session", default="", help="default: the only one with the fit split")
    parser.add_argument("--fit-split", default="calibration", help="of which shares are fitted")
    parser.add_argument("--split", default="test", help="split to score (default: test)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--shares", help="percent of it, ascending (default: 3,10,25,50,100)")
    size.add_argument("--minutes", help="minutes of it in place of shares, as 1,3,10")
    parser.add_argument("--seeds", type=int, default=3, help="of each cell (default: 3)")
    parser.add_argument(
        "--decoders",
        default="pretrained,scratch,ridge,wiener,gru",
        help="of pretrained,readout,scratch,ridge,wiener,gru (default: all but readout)",
    )
    parser.add_argument(
        "--rates",
        help="learning rates that the held-back part chooses from (default: 1e-4,3e-4,1e-3,3e-3)",
    )
    parser.add_argument(
        "--no-tune", action="store_true", help="one rate: --rates, or each config's own"
    )
    parser.add_argument("--config", default="tune_curve.yaml", help="of fine-tunes")
    parser.add_argument(
        "--workers", type=int, help="cells at the same time (default: 1 a device); 0 = without Ray"
    )
    parser.add_argument(
        "--gpus-per-cell", type=float, help="or a fraction, as .25 (default: 1 where there is one)"
    )
    parser.add_argument("--threads", type=int, help="of a network's fit (default: cores by cells)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="new, or of the same curve")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value or gru.key=value")
    return parser


def main() -> None:
    parser = parser_of()
    args = parser.parse_intermixed_args()
    for flag, least in (("seeds", 1), ("workers", 0), ("threads", 1), ("gpus_per_cell", 0)):
        if (value := getattr(args, flag)) is not None and value < least:
            parser.error(f"--{flag.replace('_', '-')}: expected at least {least}")
    if storage.is_remote(args.out):
        raise BadInput(f"--out {args.out}: expected a folder on a disk")
    with log.waiting("loading torch"):
        from ndt3_dist.checkpoint.local_export import local_export
        from ndt3_dist.tasks.curve import cells, curve_page, curve_table, fit_all, kept
        from ndt3_dist.tasks.curve.gru import GruConfig
        from ndt3_dist.tune.tune_config import TuneConfig

    decoders = cells.check_decoders(args.decoders.split(","))
    if args.minutes:
        key, values = "data.minutes", cells.numbers(args.minutes, "--minutes")
    else:
        key = "data.share"
        shares = cells.numbers(args.shares or "3,10,25,50,100", "--shares", 100)
        values = [share / 100 for share in shares]
    rates = cells.numbers(args.rates, "--rates") if args.rates else [1e-4, 3e-4, 1e-3, 3e-3]
    if args.no_tune and args.rates and len(rates) > 1:
        raise BadInput(f"--no-tune takes one rate; --rates {args.rates} are {len(rates)}")
    if args.no_tune and not args.rates:
        rates = []
    own = [o for o in args.overrides if o.startswith("gru.")]
    corpus = args.corpus
    corpus = corpus if storage.is_remote(corpus) else str(Path(corpus).absolute())
    told = [f"data.corpus={corpus}", f"data.fit={args.fit_split}"]
    told += [f"data.session={args.session}"] * bool(args.session)
    others = [o for o in args.overrides if o not in own]
    if named := [o for o in others if o.partition("=")[0] in ("data.share", "data.minutes")]:
        raise BadInput(f"{named[0]}: --shares and --minutes say how much is fitted")
    config = load_config(TuneConfig, find_file(args.config, "configs"), [*others, *told])
    if not config.train.steps:
        raise BadInput("train.steps is 0; a curve's fine-tunes need steps")
    if config.data.sessions or config.train.objective == "spikes":
        raise BadInput(
            "data.sessions or train.objective spikes: a curve is of one session with its labels"
        )
    asked = {"rates": rates, "decoders": decoders, "seeds": args.seeds}
    asked["gru"] = gru_config(GruConfig, config, own)
    init = str(Path(local_export(args.init)).absolute()) if args.init else ""
    curve = cells.planned(config, init, args.split, key, values, **asked)
    for line in curve.seen:
        log.warn(line)
    workers, gpus = devices(args)
    threads = args.threads or max(1, len(os.sched_getaffinity(0)) // max(workers, 1))
    wanted = curve.cells()
    with kept.Kept(Path(args.out).absolute(), kept.settings(curve)) as folder:
        lacking = len(folder.lacking(wanted))
        log.say(
            f"curve {folder.out}: {len(wanted)} cells of session {curve.config.data.session}, "
            f"{len(wanted) - lacking} of them done; {workers or 'no'} workers, {gpus:g} GPUs and "
            f"{threads} threads each"
        )
        failed = fit_all.fit_all(curve, folder, workers, gpus, threads)
        found = folder.found(wanted)
        from ndt3_dist.shards.summary import text_table

        log.say(text_table(curve_table.table_rows(curve, found)))
        for line in curve_table.summary(curve, found):
            log.say(line)
        dims = curve.config.data.covariates or session_dims(curve)
        for path in curve_page.write_all(curve, found, dims, folder.out):
            log.say(str(path))
    if failed:
        raise RankFailed(f"{len(failed)} of the decoders failed, the first {failed[0]}")


def gru_config(schema, config, overrides: list[str]):
    """Of `gru.steps=...` and the like; its data and run are those of the fine-tunes."""
    values: dict = {"run": config.run.model_dump(), "data": config.data.model_dump()}
    for override in overrides:
        key, equals, text = override.removeprefix("gru.").partition("=")
        if not equals:
            raise BadInput(f"{override!r} is not an override; expected gru.key=value")
        section = "optim" if key in schema.Optim.model_fields else "train"
        values.setdefault(section, {})[key] = parse_scalar(text, override)
    return check(schema, values, "gru")


def session_dims(curve) -> list[str]:
    from ndt3_dist.shards.manifest import read_manifest

    data = curve.config.data
    return [c.name for c in read_manifest(data.corpus).named(data.session).covariates]


def devices(args) -> tuple[int, float]:
    """Cells at the same time, and GPUs of each."""
    import torch

    found = torch.cuda.device_count()
    gpus = args.gpus_per_cell if args.gpus_per_cell is not None else float(found > 0)
    fits = int(found / gpus) if gpus else 1
    workers = fits if args.workers is None else args.workers
    if gpus and workers > fits:
        raise BadInput(
            f"--workers {workers} x --gpus-per-cell {gpus:g}: this machine has {found} GPUs"
        )
    return workers, gpus


if __name__ == "__main__":
    log.run_program(main)
