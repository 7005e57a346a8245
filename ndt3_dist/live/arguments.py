"""Options of `decode.py` that say how a live service behaves, and where its bins come from."""

import argparse
from pathlib import Path

from ndt3_dist.errors import BadInput
from ndt3_dist.live.addresses import SCOPES, Place
from ndt3_dist.live.answering import FALLBACKS, Policy

POLICY = "late_ms", "fallback", "decay_ms", "fill"
OTHERS = "lsl_out", "lsl_scope", "stats"


def add_live_options(parser: argparse.ArgumentParser) -> None:
    """All are None where they are not given."""
    live = parser.add_argument_group("with --serve or --lsl-in (docs/live.md)")
    live.add_argument("--lsl-out", metavar="NAME", help="LSL stream of covariates")
    live.add_argument("--lsl-scope", choices=SCOPES, help="where LSL looks and is seen (machine)")
    live.add_argument("--late-ms", type=float, help="silence before a fall-back (two bins)")
    live.add_argument("--fallback", choices=FALLBACKS, help="what it is (hold)")
    live.add_argument("--decay-ms", type=float, help="time in which what is held falls to 1/e")
    live.add_argument("--fill", type=int, help="lost bins in a row that are taken for silent (10)")
    live.add_argument("--stats", metavar="FILE", help="its numbers as JSON, at the end and SIGUSR1")


def live_options(args: argparse.Namespace) -> tuple[Policy, Place] | None:
    """How the service behaves and where its bins come from; None for another source of bins."""
    given = {name: value for name in POLICY if (value := getattr(args, name)) is not None}
    if args.serve is None and args.lsl_in is None:
        for name in (*POLICY, *OTHERS):
            if getattr(args, name) is not None:
                raise BadInput(f"--{name.replace('_', '-')} goes with --serve or --lsl-in")
        return None
    if args.stats is not None and not Path(args.stats).absolute().parent.is_dir():
        raise BadInput(f"--stats {args.stats}: expected a file in a local folder that is there")
    if args.recompute:
        raise BadInput("--recompute goes with --recording or --stdin; a service keeps (--cache)")
    if args.serve is None:
        return Policy(**given), Place(
            "", args.lsl_in, args.lsl_out or "", args.lsl_scope or "machine"
        )
    for name in ("lsl_out", "lsl_scope"):
        if getattr(args, name) is not None:
            raise BadInput(f"--{name.replace('_', '-')} goes with --lsl-in")
    return Policy(**given), Place(args.serve)
