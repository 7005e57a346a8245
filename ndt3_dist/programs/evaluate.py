"""Score a decoder on the test bins of each session, beside a ridge on identical bins.

Every bin is decoded from its causal context, as a stream is; with --stride from windows run anew.
R2 is variance-weighted over dimensions in raw units (FALCON's definition); r2_uniform averages
dimensions, r2_flat takes all values as one vector (NDT3's own). Bits per spike are those of the
spike head over mean rates; with --held-out also those of an array's channels, which a masked model
predicts from all other channels.

Example:
    python launch/evaluate.py --model runs/tune_demo/export --corpus corpora/demo/corpus
"""

import argparse
import math
from pathlib import Path

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        required=True,
        action="append",
        metavar="EXPORT",
        help="folder, s3://, https:// or hf://ORG/NAME; of several, also the mean",
    )
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--session", default="", help="default: each one with the split")
    parser.add_argument("--split", default="test", help="split to score (default: test)")
    parser.add_argument("--fit-split", default="calibration", help="split that fits the ridge")
    parser.add_argument(
        "--history", type=int, default=0, help="bins of history of the ridge (0: the best of some)"
    )
    parser.add_argument(
        "--folds", type=int, default=5, help="contiguous parts of it that choose both in turn"
    )
    parser.add_argument("--context", type=int, default=0, help="bins a prediction sees (0: window)")
    parser.add_argument(
        "--stride",
        type=int,
        default=0,
        help="bins of a window that is run anew (0: none is)",
    )
    parser.add_argument(
        "--held-out",
        action="append",
        default=[],
        metavar="ARRAY",
        help="array that masked models predict from the others (co_bits_per_spike)",
    )
    parser.add_argument(
        "--refuse-seen",
        action="store_true",
        help="an error, and no warning, where a model was trained on what it is scored on",
    )
    parser.add_argument("--out", help="JSON file to write")
    parser.add_argument("--save", metavar="FILE.npz", help="truth and predictions, in raw units")
    parser.add_argument("--plot", help="picture of true and decoded traces (.png, .svg)")
    args = parser.parse_args()
    if args.plot and Path(args.plot).suffix not in (".png", ".svg", ".pdf"):
        raise BadInput(f"--plot {args.plot}: expected a name that ends in .png, .svg or .pdf")
    log.note(f"evaluate {', '.join(args.model)} on split {args.split} of {args.corpus}")
    with log.waiting("loading torch"):
        from ndt3_dist.checkpoint.local_export import local_export
        from ndt3_dist.data.continuous import sessions_with
        from ndt3_dist.evaluate.predictions import save_predictions
        from ndt3_dist.evaluate.session import evaluate, refuse_seen
        from ndt3_dist.shards.corpus import Corpus
        from ndt3_dist.shards.summary import text_table

    models = {"model": args.model[0]}
    if len(args.model) > 1:
        models = {
            Path(m).parent.name if Path(m).name == "export" else Path(m).name: m for m in args.model
        }
    if len(models) < len(args.model):
        raise BadInput(f"--model {' '.join(args.model)}: two have one name; rename a folder")
    models = {name: str(local_export(model)) for name, model in models.items()}
    rows, summaries, seen = [], [], 0
    corpus = Corpus(args.corpus, (args.split,))
    known = [args.session] if args.session else sessions_with(corpus)
    if args.refuse_seen:  # before anything is decoded
        sessions = [corpus.manifest.named(session) for session in known]
        refuse_seen(models.values(), corpus.manifest, sessions, args.split)
    for session in log.progress(known, "evaluating, sessions"):
        result = evaluate(
            models,
            args.corpus,
            session,
            split=args.split,
            fit_split=args.fit_split,
            history=args.history,
            folds=args.folds,
            context=args.context,
            stride=args.stride,
            held_out=args.held_out,
        )
        seen += bool(result["seen"])
        ridge = f"ridge, {result['history']} bins, penalty {result['penalty']:.3g}"
        for name, scores in result["scores"].items():
            row = {"session": session, "decoder": ridge if name == "ridge" else name}
            rows.append({**row, **{k: _short(v) for k, v in scores.items()}})
        if args.save:
            save_predictions(_plot_path(args.save, session, len(known)), result)
        if args.plot:
            with log.waiting("loading matplotlib"):
                from ndt3_dist.pages.picture import save_traces

            save_traces(result, _plot_path(args.plot, session, len(known)))
        summaries.append({k: v for k, v in result.items() if k not in ("truth", "predictions")})
    log.say(f"split {args.split}, {summaries[0]['context']} bins of context\n{text_table(rows)}")
    if seen:
        log.warn(f"models may have seen what {seen} of {len(known)} sessions are scored on")
    if args.out:
        content = summaries[0] if len(summaries) == 1 else summaries
        storage.write_json(args.out, _plain(content))


def _plot_path(path: str, session: str, sessions: int) -> Path:
    """The file of one session: PATH, or PATH with the session's name where there are several."""
    name = Path(path)
    return name if sessions == 1 else name.with_name(f"{name.stem}-{session}{name.suffix}")


def _plain(value):
    """A value for JSON, which has no NaN: null where a score is not known."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(f"{v:.3f}" for v in value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    log.run_program(main)
