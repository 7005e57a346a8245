"""Score a decoder on the test bins of a session, beside a ridge on identical bins.

Every bin is decoded from its causal context with a sliding window. R2 is variance-weighted over
dimensions in raw units (FALCON's definition) unless it is named otherwise.

Example:
    python launch/evaluate.py --model runs/tune_demo/export --corpus corpora/demo/corpus
"""

import argparse
import json

from ndt3_dist import log, storage


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="EXPORT")
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--session", default="", help="default: the only one with the split")
    parser.add_argument("--split", default="test", help="split to score (default: test)")
    parser.add_argument("--fit-split", default="calibration", help="split that fits the ridge")
    parser.add_argument("--history", type=int, default=15, help="bins of history of the ridge")
    parser.add_argument(
        "--held", type=float, default=0.2, help="last part of it that chooses the penalty"
    )
    parser.add_argument("--context", type=int, default=0, help="bins a prediction sees (0: window)")
    parser.add_argument("--stride", type=int, default=10, help="bins decoded by one pass")
    parser.add_argument("--out", help="JSON file to write")
    parser.add_argument("--plot", help="picture of true and decoded traces to write (.png, .svg)")
    args = parser.parse_args()
    from ndt3_dist.evaluate.session import evaluate
    from ndt3_dist.shards.report import text_table

    result = evaluate(
        {"model": args.model},
        args.corpus,
        args.session,
        split=args.split,
        fit_split=args.fit_split,
        history=args.history,
        held=args.held,
        context=args.context,
        stride=args.stride,
    )
    rows = [
        {"decoder": name, **{k: _short(v) for k, v in scores.items()}}
        for name, scores in result["scores"].items()
    ]
    log.say(f"session {result['session']}, split {args.split}, {result['context']} bins of context")
    log.say(text_table(rows))
    if args.plot:
        from ndt3_dist.train.report import trace_figure

        trace_figure(result).savefig(args.plot, dpi=120)
    if args.out:
        summary = {k: v for k, v in result.items() if k not in ("truth", "predictions")}
        storage.write_bytes(args.out, (json.dumps(summary, indent=1) + "\n").encode())


def _short(value) -> str:
    if isinstance(value, list):
        return ", ".join(f"{v:.3f}" for v in value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    log.run_program(main)
