"""Fit, score and submit decoders for the FALCON benchmark (h1, h2, m1, m2).

Example:
    ndt3 falcon fit m2 --init exports/ndt3_45m --corpus corpora/m2 --out runs/m2 optim.lr=1e-5
    ndt3 falcon fit m2 --mode zero-shot --init exports/ndt3_45m --corpus corpora/m2 --out runs/m2_zs
    ndt3 falcon fit h2 --init exports/ndt3_45m --data 000950 --out runs/h2
    ndt3 falcon evaluate runs/m2 --data DATA          # DATA holds m2/minival or 000953/...minival
    ndt3 falcon run runs/m2 --data DATA               # the same by FALCON's own evaluator
    ndt3 falcon submit runs/m2 submission             # then: docker build -t m2 submission

docs/falcon.md says what is fitted to what, and what the scores are.
"""

import argparse
import sys
from typing import Any

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput

MODES = ("few-shot", "zero-shot", "oracle")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(required=True, metavar="fit|evaluate|run|submit|check")
    fit = parts.add_parser(
        "fit",
        help="fit decoders to the recordings of a task",
        usage="%(prog)s TASK --out DIR [options] [section.key=value of the config ...]",
        allow_abbrev=False,
    )
    fit.add_argument("task", help="h1, h2, m1 or m2")
    fit.add_argument("--mode", choices=MODES, default=MODES[0])
    fit.add_argument("--init", metavar="EXPORT", help="export to start from")
    fit.add_argument("--out", required=True, help="folder of the fit")
    fit.add_argument("--corpus", help="of the task's recipe (h1, m1, m2)")
    fit.add_argument("--config", default="tune_session.yaml", help="of a fine-tune (h1, m1, m2)")
    fit.add_argument("--only", nargs="+", default=[], metavar="TAG", help="fit these alone")
    fit.add_argument("--data", nargs="+", default=[], help="NWB files or folders (h2)")
    for name, kind, what in TEXT_OPTIONS:
        fit.add_argument(f"--{name}", type=kind, help=f"{what} (h2)")
    fit.set_defaults(part=fit_part)
    for name, part, what in (
        ("evaluate", evaluate_part, "score a fit on files of a phase"),
        ("run", run_part, "the same by FALCON's own evaluator"),
    ):
        scored = parts.add_parser(name, help=what)
        scored.add_argument("folder", help="of the fit")
        scored.add_argument("--data", default="", help="folder with TASK/minival (and TASK/eval)")
        scored.add_argument("--phase", choices=("minival", "test"), default="minival")
        scored.add_argument("--batch-size", type=int, default=0, help="0 = as the evaluator")
        scored.add_argument("--recompute", action="store_true", help="keep no keys and values")
        scored.add_argument("--dtype", choices=("auto", "fp32", "bf16", "int8"), default="auto")
        scored.add_argument("--context", type=int, default=0, help="bins (0: that of the fit)")
        scored.set_defaults(part=part)
    scored.add_argument("--evaluation", choices=("local", "remote"), default="local")
    parts.choices["evaluate"].add_argument("--out", help="JSON file to write")
    submit = parts.add_parser("submit", help="make and try the folder that an image is built from")
    submit.add_argument("folder", help="of the fit")
    submit.add_argument("out", help="folder to make")
    submit.set_defaults(part=submit_part)
    check = parts.add_parser("check", help="decode silent bins of each recording")
    check.add_argument("folder", help="of the fit, or of a submission")
    check.set_defaults(part=check_part)
    args, args.overrides = parser.parse_known_args()
    for word in args.overrides:
        if word.startswith("-"):
            raise BadInput(f"{word}: no option of {sys.argv[1]}; see --help")
        if args.part is not fit_part or "=" not in word:
            raise BadInput(f"{word}: only fit takes more words, of the form section.key=value")
    args.part(args)


TEXT_OPTIONS: tuple[tuple[str, Any, str], ...] = (
    ("steps", int, "steps"),
    ("batch", int, "trials of a step"),
    ("lr", float, "learning rate of the head"),
    ("backbone-lr", float, "learning rate of NDT3's own weights; 0 = they stay"),
    ("hidden", int, "width of the head"),
    ("context", int, "bins that a feature sees"),
    ("every", int, "steps between scores of what is held back"),
    ("seed", int, "of weights and batches"),
)


def fit_part(args: argparse.Namespace) -> None:
    with log.waiting("loading torch"):
        from ndt3_dist.checkpoint.local_export import local_export
        from ndt3_dist.tasks.falcon.movement import fit_movement
        from ndt3_dist.tasks.falcon.tags import task_of
        from ndt3_dist.tasks.falcon.text_fit import TextFit, fit_text
    task = task_of(args.task)
    init = str(local_export(args.init)) if args.init else None
    given = {n.replace("-", "_"): getattr(args, n.replace("-", "_")) for n, *_ in TEXT_OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    if task.dims:
        if not args.corpus or args.data or given:
            raise BadInput(f"{task.name} is fitted to a corpus: --corpus, no --data or text option")
        where = args.corpus, init, args.out, args.config, args.overrides, args.only
        fitted = fit_movement(task, args.mode, *where)
        log.say(f"{len(fitted.decoders)} recordings of {task.name}, {args.mode}: {args.out}")
        return
    if not (args.data and init) or args.corpus or args.overrides or args.only:
        raise BadInput(f"{task.name} is fitted to NWB files: --init and --data, and no corpus")
    found = fit_text(args.mode, args.data, init, args.out, TextFit(**given))
    log.say(
        f"best step {found['best_step']}: CER {found['cer']:.3f}, WER {found['wer']:.3f} on "
        f"{found['held_back']} trials held back; {args.out}"
    )


def how_of(args: argparse.Namespace):
    from ndt3_dist.tasks.falcon.decoder import How

    return How(keep=not args.recompute, kind=args.dtype, context=args.context)


def evaluate_part(args: argparse.Namespace) -> None:
    with log.waiting("loading torch"):
        from ndt3_dist.tasks.falcon.scoring import evaluate
    found = evaluate(args.folder, args.data or "data", args.phase, args.batch_size, how_of(args))
    for session, scores in found["sessions"].items():
        log.say("  ".join([session, *(f"{name} {value:.4f}" for name, value in scores.items())]))
    say_scores(found["scores"])
    if found["phase"] == "minival":
        log.say("minival repeats a part of the held-in calibration files: no measure of a decoder")
    if args.out:
        storage.write_json(args.out, found)


def run_part(args: argparse.Namespace) -> None:
    with log.waiting("loading torch"):
        from ndt3_dist.tasks.falcon.official import run_evaluator
    is_remote = args.evaluation == "remote"
    where = args.folder, args.data, args.phase, is_remote, args.batch_size
    say_scores(run_evaluator(*where, how_of(args)))


def say_scores(scores: dict[str, float]) -> None:
    for name, value in scores.items():
        log.say(f"{name}: {value!r}")


def submit_part(args: argparse.Namespace) -> None:
    with log.waiting("loading torch"):
        from ndt3_dist.tasks.falcon.submission import build_submission
    for line in build_submission(args.folder, args.out):
        log.say(line)
    log.say(f"it decodes; next: docker build -t falcon {args.out}")


def check_part(args: argparse.Namespace) -> None:
    with log.waiting("loading torch"):
        from ndt3_dist.tasks.falcon.submission import check_decodes
    log.say(f"decodes {check_decodes(args.folder)} recordings")


if __name__ == "__main__":
    log.run_program(main)
