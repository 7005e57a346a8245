"""Decode a recording, or a stream of spike counts, bin by bin with an export.

A recording is read and binned as a recipe says, with the bin size of the export; its predictions
go to --out (.npy or .csv) or to standard output as CSV: the start of each bin in s on the
recording's clock, then the covariates in raw units. With --stdin a line of counts comes in for
each bin, separated by commas or spaces, and a line of predictions goes out at once; the model is
loaded before the first where the export or --arrays says how many channels there are. The time that
each bin took is summed up on standard error.

With --serve bins come over a socket of this machine, or with --lsl-in as a stream of LSL, and
covariates go back (docs/live.md): always with --cache, with a fall-back where no bin comes.

Example:
    python launch/decode.py --model runs/demo/finetuned/export --recording day2.nwb --out day2.csv
    acquire | python launch/decode.py --model runs/demo/finetuned/export --stdin --arrays 96,96
    python launch/decode.py --model runs/demo/finetuned/export --serve unix:/tmp/ndt3.sock
"""

import argparse
import io
import os
import sys
import time

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput
from ndt3_dist.live import quiet
from ndt3_dist.live.arguments import add_live_options, live_options


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = "folder, s3://, https:// or hf://ORG/NAME"
    parser.add_argument("--model", required=True, metavar="EXPORT", help=where)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--recording", metavar="FILE.nwb")
    source.add_argument("--stdin", action="store_true", help="read bins from standard input")
    address = "unix:PATH or tcp://127.0.0.1:PORT (0: any that is free)"
    source.add_argument("--serve", metavar="ADDRESS", help=f"serve on {address}")
    source.add_argument("--lsl-in", metavar="NAME", help="serve an LSL stream of bins")
    parser.add_argument("--out", help="file for a recording's predictions (.npy, .csv)")
    parser.add_argument("--session", default="", help="session of the export whose scale to use")
    parser.add_argument("--arrays", default="", help="channels of each array: 96,96")
    parser.add_argument("--context", type=int, default=0, help="bins a prediction sees (0: window)")
    way = parser.add_mutually_exclusive_group()
    again = "run each window anew, as evaluate.py does with --stride 1 (default)"
    way.add_argument("--recompute", action="store_true", help=again)
    way.add_argument("--cache", action="store_true", help="keep keys and values: faster")
    kinds = "what --cache computes in (auto: bf16 where the device has it, else fp32)"
    choices = ["auto", "fp32", "bf16", "int8"]
    parser.add_argument("--dtype", choices=choices, default="auto", help=kinds)
    parser.add_argument("--threads", type=int, default=0, help="to compute with (0: torch's own)")
    parser.add_argument("--cores", default="", help="cores to stay on, such as 2,3")
    parser.add_argument("--recipe", default="one_recording.yaml", help="how to read a recording")
    add_live_options(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe keys to change")
    args = parser.parse_args()
    if args.context < 0:
        raise BadInput(f"--context {args.context}: expected at least 1 bin, or 0 for a window")
    if not args.recording and (args.out or args.overrides):
        raise BadInput("--out and recipe keys go with --recording")
    live = live_options(args)
    args.cache = args.cache or live is not None
    if args.dtype != "auto" and not args.cache:
        raise BadInput(f"--dtype {args.dtype} goes with --cache; a window is computed in fp32")
    if args.arrays and args.recording:
        raise BadInput("--arrays goes without --recording; a recording has its own")
    what = args.recording or ("standard input" if args.stdin else args.serve or args.lsl_in)
    log.note(f"decode {what} with {args.model}")
    with log.waiting("loading torch"):
        quiet.pin(args.cores, args.threads)
        from ndt3_dist.checkpoint.local_export import local_export

    args.model = str(local_export(args.model))
    if live:
        decode_live(args, *live)
    else:
        (decode_stdin if args.stdin else decode_recording)(args)


def decode_live(args: argparse.Namespace, policy, place) -> None:
    """A service, until a signal ends it."""
    from ndt3_dist.evaluate.online import read_units
    from ndt3_dist.live.service import serve

    units = read_units(args.model, args.session)
    arrays = read_arrays(args.arrays) or units.channels
    if not arrays:
        raise BadInput(f"{args.model}: does not say how many channels it has; give --arrays 96,96")
    serve(open_decoder(args, units, arrays), units, policy, place, args.stats)


def decode_stdin(args: argparse.Namespace) -> None:
    """A line of predictions in raw units for each line of counts."""
    from ndt3_dist.evaluate.online import parse_bins, read_units

    units = read_units(args.model, args.session)
    arrays = read_arrays(args.arrays) or units.channels
    # Loading takes seconds, in which bins would pile up.
    decoder = open_decoder(args, units, arrays) if arrays else None
    clock = Clock(units.bin_ms)
    try:
        for counts in parse_bins(sys.stdin.buffer, sum(arrays) or None):
            decoder = decoder or open_decoder(args, units, arrays or [len(counts)])
            predicted = clock.step(decoder, counts) * units.scale
            print(",".join(f"{v:.9g}" for v in predicted), flush=True)
    except BrokenPipeError:
        # Whoever read the predictions has left; keep Python from flushing to them at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        clock.report()
    if not clock.bins:
        raise BadInput("standard input is empty; expected a line of counts for each bin")


def decode_recording(args: argparse.Namespace) -> None:
    """Predictions of every bin of a recording file."""
    from ndt3_dist.config import find_file
    from ndt3_dist.evaluate.online import read_units
    from ndt3_dist.prep.binning import count_spikes, num_bins
    from ndt3_dist.prep.reading import read
    from ndt3_dist.prep.recipe import load_recipe
    from ndt3_dist.shards.manifest import session_id

    if args.out and not args.out.endswith((".npy", ".csv")):
        raise BadInput(f"--out {args.out}: expected a name that ends in .npy or .csv")
    recipe = load_recipe(find_file(args.recipe, "data_prep/recipes"), args.overrides)
    with log.waiting(f"reading {args.recording}"):
        recording = read(args.recording, recipe)
    name = session_id(recipe.dataset, recording.subject, recording.session)
    units = read_units(args.model, args.session, likely=name)
    if units.session != name:
        log.warn(f"{args.recording} is session {name}; the scale is that of {units.session}")
    bin_s = units.bin_ms / 1000
    bins = num_bins(recording, bin_s)
    try:
        with log.waiting("counting spikes"):
            spikes = count_spikes(recording, bin_s, bins)
    except BadInput as e:
        raise BadInput(f"{args.recording}: {e}") from e
    if not bins:
        raise BadInput(f"{args.recording}: shorter than a bin of {units.bin_ms:g} ms")
    decoder = open_decoder(args, units, [a.channels for a in recording.arrays])
    clock = Clock(units.bin_ms)
    steps = [clock.step(decoder, s) for s in log.progress(spikes, "decoding, bins", bins)]
    starts = recording.start_s + bin_s * np.arange(bins)
    table = np.column_stack([starts, np.stack(steps) * units.scale])
    write_table(args.out, table, ["start_s", *units.names])
    clock.report()


def open_decoder(args: argparse.Namespace, units, arrays: list[int]):
    """The export on the GPU if there is one, for a session with these arrays."""
    from ndt3_dist.evaluate.online import OnlineDecoder, open_export

    with log.waiting(f"loading {args.model}"):
        opened = open_export(args.model, units, arrays)
    context = args.context or units.window
    if context > units.window:
        log.warn(f"--context {context}: the model was trained on windows of {units.window} bins")
    filters = opened.readout.filters if opened.readout else None
    with log.waiting("the first step"):
        decoder = OnlineDecoder(
            opened.model, opened.layout, context, args.cache, filters, args.dtype
        )
        decoder.step(np.zeros(sum(arrays), np.uint8))  # it is slow
        decoder.reset()
    how = f"cached, {decoder.stream.kind}" if decoder.stream else "recomputed"
    log.note(
        f"session {units.session}: {', '.join(units.names)}; {sum(arrays)} channels, {context} "
        f"bins of {units.bin_ms:g} ms of context, {how}, {quiet.described()}"
    )
    return decoder


def read_arrays(text: str) -> list[int]:
    """Channels of each array from text such as 96,96; empty text gives none."""
    parts = text.split(",") if text else []
    if not all(p.isascii() and p.isdigit() and 0 < int(p) < 10**6 for p in parts):
        raise BadInput(f"--arrays {text}: expected channels of each array, such as 96,96")
    return [int(p) for p in parts]


def write_table(path: str | None, table: np.ndarray, names: list[str]) -> None:
    """Write (bins, 1 + dims) as .npy (float64) or as CSV under a header; None = to the output."""
    buffer = io.BytesIO()
    if path and path.endswith(".npy"):
        np.save(buffer, table, allow_pickle=False)
    else:
        np.savetxt(buffer, table, "%.9g", ",", header=",".join(names), comments="")
    if path:
        storage.write_bytes(path, buffer.getvalue())
    else:
        sys.stdout.write(buffer.getvalue().decode())


class Clock:
    """How long each bin took, from its counts to its prediction.

    Attributes:
        bins: That were decoded.
    """

    LAST = 1 << 20
    """Bins that percentiles are of, so that memory is bounded: 5.8 hours of 20 ms."""

    def __init__(self, bin_ms: float):
        self.bin_ms, self.bins, self.longest_ms = bin_ms, 0, 0.0
        self.last_ms = np.empty(self.LAST)

    def step(self, decoder, counts: np.ndarray) -> np.ndarray:
        began = time.perf_counter()
        predicted = decoder.step(counts)
        took_ms = 1000 * (time.perf_counter() - began)
        self.last_ms[self.bins % self.LAST] = took_ms
        self.bins, self.longest_ms = self.bins + 1, max(self.longest_ms, took_ms)
        return predicted

    def report(self) -> None:
        """One line on standard error; none where no bin came."""
        if not self.bins:
            return
        p50, p95, p99 = np.percentile(self.last_ms[: self.bins], (50, 95, 99))
        log.note(
            f"{self.bins} bins of {self.bin_ms:g} ms; ms per bin: p50 {p50:.2f}  "
            f"p95 {p95:.2f}  p99 {p99:.2f}  max {self.longest_ms:.2f}"
        )


if __name__ == "__main__":
    log.run_program(main)
