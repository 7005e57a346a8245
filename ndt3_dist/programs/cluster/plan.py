"""Say before a run what it takes: memory, network, hours, cost, contradictions of its config.

No GPU and no data: a corpus is known by its manifest (--corpus), or assumed to be so many hours.
docs/cluster.md has the formulas.

Example:
    python launch/plan.py --config big_350m_2kh.yaml --gpus 32 --gpu a100-40gb
    python launch/plan.py --config big_350m_2kh.yaml --gpus 64 --gpu h100 --price 2.5 \\
        --corpus s3://lab/corpus --picture plan.svg
    python launch/plan.py --config base_45m_200h.yaml --gpu l40s --hours 200 --deadline 7d
    python launch/plan.py --config big_350m_2kh.yaml --gpu h200 --budget 5000 --price 3
"""

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path

from ndt3_dist import log
from ndt3_dist.config import find_file
from ndt3_dist.errors import BadInput


def duration(text: str) -> float:
    """Hours of 7d, 36h or 90m."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([dhm])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; expected 7d, 36h or 90m")
    return float(found[1]) * {"d": 24, "h": 1, "m": 1 / 60}[found[2]]


def share(text: str) -> float:
    """Of 46% or .46."""
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share; expected .46 or 46%")
    return value


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def parser_of(cards: list[str], networks: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="YAML file or name of a shipped config")
    parser.add_argument(
        "--gpu", required=True, choices=cards, metavar="CARD", help=", ".join(cards)
    )
    parser.add_argument("--gpus", type=count, help="in all; or --deadline or --budget")
    parser.add_argument("--per-node", type=count, default=8, help="GPUs of a host (default: 8)")
    parser.add_argument(
        "--network", choices=networks, default="ib-hdr", help="between hosts (default: ib-hdr)"
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--corpus", help="folder or URL of a corpus, whose manifest is read")
    size.add_argument("--hours", type=positive, help="assume so many hours (default: 2000)")
    parser.add_argument("--channels", type=count, default=192, help="of them (default: 192)")
    parser.add_argument("--covariates", type=int, default=2, help="of them (default: 2)")
    parser.add_argument("--mfu", type=share, help="to reckon with, instead of a roofline's")
    parser.add_argument("--price", type=positive, help="of one GPU's hour")
    parser.add_argument("--deadline", type=duration, help="7d, 36h: how many GPUs are to be rented")
    parser.add_argument("--budget", type=positive, help="the same for a sum; needs --price")
    parser.add_argument(
        "--save-gb-s", type=positive, default=1.0, help="that a host writes (default: 1)"
    )
    parser.add_argument("--picture", type=Path, help="draw the curves of 1 to 1,024 GPUs: svg, png")
    parser.add_argument("--json", action="store_true", help="all of it as one JSON object")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    return parser


def main() -> None:
    from ndt3_dist.cluster.plan.network import NETWORKS, NVLINK
    from ndt3_dist.model.flops import CARDS

    parser = parser_of([*CARDS], [NVLINK, *NETWORKS])
    args = parser.parse_intermixed_args()
    if not (args.gpus or args.deadline or args.budget):
        parser.error("give --gpus, --deadline or --budget")
    if args.gpus and (args.deadline or args.budget):
        parser.error("--gpus says how many; --deadline and --budget ask")
    if args.budget and not args.price:
        parser.error("--budget needs --price, what an hour of one GPU costs")
    from ndt3_dist.cluster.plan.corpus_size import of_corpus, of_hours
    from ndt3_dist.cluster.plan.problems import load
    from ndt3_dist.cluster.plan.run_length import Cluster, to_rent
    from ndt3_dist.cluster.plan.whole import Plan, as_json, as_text

    config, wrong = load(find_file(args.config, "configs"), args.overrides)
    if args.corpus or (config.data.corpus and not args.hours):
        size = of_corpus(config, args.corpus or config.data.corpus)
    else:
        size = of_hours(config, args.hours or 2000, args.channels, args.covariates)
    cluster = Cluster(args.gpu, args.gpus or 1, args.per_node, args.network, args.mfu, args.price)
    if not args.gpus:
        chosen = to_rent(config, size, cluster, args.deadline, args.budget)
        cluster = replace(cluster, gpus=chosen.gpus)
    found = Plan.of(config, size, cluster, wrong, args.save_gb_s * 1e9)
    log.say(json.dumps(as_json(found)) if args.json else as_text(found))
    if args.picture:
        found.draw(args.picture)
        log.note(f"{args.picture}")
    refused = [p.said for p in found.problems if p.refused]
    if refused:
        raise BadInput("; ".join(refused))


if __name__ == "__main__":
    log.run_program(main)
