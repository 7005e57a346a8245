"""Decode a session as it arrives: one bin of counts in, one prediction out.

Two ways to bound what a prediction sees to `context` bins. Recomputing runs the window anew for
every bin, as `evaluate.decode` does with a stride of 1.
Keeping keys and values (`model.streaming`) computes the new bin alone: equal until the window is
full, afterwards as upstream decodes.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.model.load import load_model, read_normalisation
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.readout import Filters, Readout, load_readout
from ndt3_dist.model.streaming import StreamingDecoder
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens

COUNT = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Units:
    """What the numbers of an export mean for one session.

    Attributes:
        session: Its id.
        names: Covariates with their units.
        scale: Raw units per unit of a prediction, (dims,).
        bin_ms: Bin size in ms.
        window: Bins of a window in training.
        channels: Channels of each array; none where the export does not say.
        identities: Names of what its windows begin with; none where the model has no context.
    """

    session: str
    names: list[str]
    scale: np.ndarray
    bin_ms: float
    window: int
    channels: list[int]
    identities: Sequence[str] = ()


def read_units(export: str, session: str = "", likely: str = "") -> Units:
    """Read them from the normalisation.json of an export.

    Args:
        export: Folder of the export.
        session: Id of the session; empty = `likely` if it is there, else the only one.
        likely: Id that a recording goes by.
    Raises:
        BadInput: There is no such session, several to choose from, or nothing to decode in it.
        CheckpointCorrupt: The file is damaged.
    """
    norms = read_normalisation(export)
    try:
        known = {
            name: [(f"{c['name']} ({c['unit']})", float(c["scale"])) for c in s["covariates"]]
            for name, s in norms["sessions"].items()
        }
        channels = {
            n: [int(c) for c in s.get("channels", [])] for n, s in norms["sessions"].items()
        }
        identities = {
            n: [str(i) for i in s.get("identities", [])] for n, s in norms["sessions"].items()
        }
        bin_ms, window = float(norms["bin_size_ms"]), int(norms["window_bins"])
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise CheckpointCorrupt(
            f"{export}/normalisation.json: not as expected ({type(e).__name__}: {e}); export again"
        ) from e
    if not known:
        raise BadInput(
            f"{export}: knows no session, as an import of NDT3 does not; fit it to one first "
            "(launch/finetune.py)"
        )
    chosen = session or (likely if likely in known else "")
    if not chosen and len(known) == 1:
        chosen = next(iter(known))
    if chosen not in known:
        found = f"no session {chosen!r}" if chosen else f"{len(known)} sessions"
        raise BadInput(f"{export}: {found}; choose one with --session, of {', '.join(known)}")
    if not known[chosen]:
        raise BadInput(f"{export}: session {chosen} has no covariates to decode")
    names, scale = zip(*known[chosen], strict=True)
    return Units(
        chosen, list(names), np.array(scale), bin_ms, window, channels[chosen], identities[chosen]
    )


@dataclass(frozen=True)
class Opened:
    """An export on a device, for a session with certain channels."""

    model: NDT3
    layout: Layout
    readout: Readout | None


def open_export(
    export: str, units: Units, arrays: list[int], device: torch.device | str = ""
) -> Opened:
    """Load what decodes a session.

    Args:
        units: Of the session (`read_units`).
        arrays: Channels of each array that it has now.
        device: Empty = a GPU if there is one.
    Raises:
        BadInput: The export was fitted to other channels, or holds fewer.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(export, device)
    if units.channels and arrays != units.channels:
        raise BadInput(
            f"arrays of {arrays} channels; session {units.session} of {export} has "
            f"{units.channels}: fit a decoder to this recording first"
        )
    who = units.session, units.identities
    layout = Layout.from_counts(arrays, len(units.scale), model.config, *who)
    return Opened(model, layout, load_readout(export, units.session, sum(arrays)))


class OnlineDecoder:
    """A model that decodes one session bin by bin, or several streams of it that go on together.

    Attributes:
        channels: Channels of a bin.
        stream: What is kept of earlier bins; None where each window is recomputed.
    """

    def __init__(
        self,
        model: NDT3,
        layout: Layout,
        context: int,
        keep: bool,
        filters: Filters | None = None,
        kind: str = "fp32",
        streams: int = 1,
    ):
        """
        Args:
            model: In evaluation mode.
            context: Bins that a prediction may see, its own included.
            keep: Keep keys and values (`model.streaming`) instead of recomputing the window.
            filters: Of the export, in place of the model's covariate head.
            kind: What kept streams are computed in (`model.streaming`).
        """
        self.model, self.layout, self.streams = model, layout, streams
        self.channels = int(layout.real.sum())
        self.stream = StreamingDecoder(model, layout, context, streams, kind) if keep else None
        self.filters = filters
        self.counts: deque[np.ndarray] = deque(maxlen=0 if keep else context)
        self.lags: deque[np.ndarray] = deque(maxlen=len(filters.counts) if filters else 0)

    def reset(self) -> None:
        """Forget all bins: the next is the first."""
        self.counts.clear()
        self.lags.clear()
        if self.stream:
            self.stream.reset()

    def state(self) -> dict[str, np.ndarray]:
        """All that is remembered, as arrays to be saved (`np.savez`)."""
        shape = -1, self.streams, self.channels
        seen = {"counts": self.counts, "lags": self.lags}
        kept = {name: np.array(bins, np.uint8).reshape(shape) for name, bins in seen.items()}
        if not self.stream:
            return kept
        of_stream = {name: a.copy() for name, a in self.stream.state().items()}  # fp32 is shared
        return {**of_stream, **kept, "kind": np.array(self.stream.kind)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state`, to the bit. Raises BadInput where it is another decoder's."""
        own = self.state()
        if missing := own.keys() - state.keys():
            raise BadInput(f"state: no {min(missing)}; expected what `state` gave")
        arrays = {name: np.asarray(state[name]) for name in own}
        for name, array in arrays.items():
            shape, expected = array.shape, own[name].shape
            if name in ("counts", "lags"):  # as many as there were
                most = getattr(self, name).maxlen
                fits = array.dtype == np.uint8 and shape[1:] == expected[1:] and shape[0] <= most
                expected = f"up to {most} bins of {expected[1:]} uint8"
            else:
                fits = shape == expected and array.dtype.kind == own[name].dtype.kind
            if not fits:
                found = f"{name} of {shape} {array.dtype}"
                raise BadInput(f"state: {found}, expected {expected}; it is another decoder's")
        if self.stream:
            if str(arrays["kind"]) != self.stream.kind:
                raise BadInput(
                    f"state: of a decoder in {arrays['kind']}, this one is in {self.stream.kind}"
                )
            if arrays["num_bins"] < 0:
                raise BadInput(f"state: {arrays['num_bins']} bins; expected 0 or more")
            self.stream.restore(arrays)
        self.counts = deque(arrays["counts"], self.counts.maxlen)
        self.lags = deque(arrays["lags"], self.lags.maxlen)

    @torch.no_grad()
    def step(self, counts: np.ndarray) -> np.ndarray:
        """Read the counts of the next bin and predict its covariates.

        Args:
            counts: (channels,) uint8; or of all streams, (streams, channels).
        Returns:
            (dims,) float32, in units of the session's scale; or (streams, dims).
        """
        states = self.hidden(counts)
        if self.filters is None:
            states = states.to(self.model.covariate_out.weight.dtype)
            found = self.model.covariate_out(states)[..., 0].float().cpu().numpy()
        else:
            flat, lags = states.float().cpu().numpy(), np.stack(self.lags, axis=1)
            found = np.stack(
                [self.filters.last(h.ravel(), c) for h, c in zip(flat, lags, strict=True)]
            )
        return found if counts.ndim == 2 else found[0]

    def observe(self, counts: np.ndarray) -> None:
        """Read the counts of the next bin, as `step` does, and predict nothing."""
        self.hidden(counts)

    def hidden(self, counts: np.ndarray) -> torch.Tensor:
        """What the covariates of the next bin are read from, (streams, dims, width)."""
        is_one = self.streams == 1 and counts.shape == (self.channels,)
        if not is_one and counts.shape != (self.streams, self.channels):
            of_streams = f"{self.streams} streams of " if self.streams > 1 else ""
            raise BadInput(
                f"a bin of {counts.shape} counts; expected {of_streams}{self.channels} channels"
            )
        counts = counts.reshape(self.streams, self.channels)
        self.lags.append(counts)
        if self.stream:
            return self.stream.hidden(counts)
        self.counts.append(counts)
        windows, lists = np.stack(self.counts, axis=1), TokenLists()
        for spikes in windows:
            hidden = np.full((len(spikes), self.layout.dims), np.nan, np.float32)
            sample = {"spikes": spikes, "covariates": hidden}
            lists.add(*tokenise(sample, self.layout, self.model.config))
        tokens = PackedTokens.from_numpy(lists.pack(), self.model.space.weight.device)
        slots = tokens.covariate_slot.view(self.streams, -1)[:, -self.layout.dims :]
        return self.model.features(tokens)[slots]


def parse_bins(lines: Iterable[bytes], channels: int | None = None) -> Iterator[np.ndarray]:
    """Counts of one bin for each line of text, separated by commas or white space.

    Args:
        lines: As they arrive.
        channels: Counts that a line must have; None = as many as the first.
    Returns:
        (channels,) uint8, line by line.
    Raises:
        BadInput: A line that is empty, of another length, or not whole counts of at most 255;
            names the line.
    """
    for number, line in enumerate(lines, start=1):
        text = line.decode("ascii", "replace").strip()
        if not text:
            raise BadInput(f"line {number} is empty; expected the counts of one bin")
        values = [v.strip() for v in text.split(",")] if "," in text else text.split()
        for column, value in enumerate(values, start=1):
            if not COUNT.fullmatch(value) or int(value) > 255:
                raise BadInput(
                    f"line {number}, channel {column}: {value[:20]!r}; expected a whole count "
                    "of spikes from 0 to 255"
                )
        channels = channels or len(values)
        if len(values) != channels:
            raise BadInput(f"line {number} has {len(values)} counts; expected {channels} channels")
        yield np.array([int(v) for v in values], np.uint8)
