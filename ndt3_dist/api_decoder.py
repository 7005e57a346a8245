"""A decoder from Python (`ndt3_dist.api`): exports opened for a session, bin by bin or at once."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ndt3_dist.checkpoint.local_export import local_export
from ndt3_dist.data.continuous import Piece
from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.decode import embed, predict
from ndt3_dist.evaluate.online import OnlineDecoder, Opened, Units, open_export, read_units
from ndt3_dist.evaluate.predictions import mean_of
from ndt3_dist.prep.binning import as_uint8
from ndt3_dist.readers.matlab.mat_values import counts as whole_counts


class Decoder:
    """One export, or several whose predictions are averaged, opened for a session (`open_decoder`).

    Attributes:
        session: Its id.
        names: Covariates with their units.
        bin_ms: Bin size in ms.
        context: Bins that a prediction may see, its own included.
    """

    def __init__(
        self, opened: list[Opened], units: list[Units], context: int, streams: int, dtype: str
    ):
        self._opened, self._live = opened, (streams, dtype)
        self._scales = [each.scale for each in units]
        self.session, self.names, self.bin_ms = units[0].session, units[0].names, units[0].bin_ms
        self.context = context

    @property
    def channels(self) -> int:
        return int(self._opened[0].layout.real.sum())

    @property
    def layers(self) -> int:
        return self._opened[0].model.config.layers

    def decode(self, counts: np.ndarray, stride: int = 0) -> np.ndarray:
        """Covariates of consecutive bins; each depends on its own counts and earlier ones alone.

        Args:
            counts: Whole numbers of spikes, (bins, channels).
            stride: 0 = each bin is computed once, as `step` and `launch/evaluate.py` do; else bins
                that one pass over a window predicts (`evaluate.decode`).
        Returns:
            (bins, dims) float32, in the units of the recording.
        """
        piece, found = self._piece(counts), []
        for opened in self._opened:
            where = opened.layout, self.context, stride
            found.append(predict(opened.model, piece, *where, readout=opened.readout)[0])
        return self._mean(found)

    def embed(self, counts: np.ndarray, layer: int = -1, stride: int = 0) -> np.ndarray:
        """Features of consecutive bins; each depends on its own counts and earlier ones alone.

        Of a bin it is the mean over the slots that its covariates are read from.

        Args:
            counts: Whole numbers of spikes, (bins, channels).
            layer: From 0, or from the end as -1. The last one gives what the heads read, another
                one the residual stream behind it.
            stride: As in `decode`.
        Returns:
            (bins, width of the model) float32.
        """
        if len(self._opened) > 1:
            raise BadInput(
                f"features of {len(self._opened)} exports have no mean; open one of them alone"
            )
        if not -self.layers <= layer < self.layers:
            raise BadInput(
                f"layer {layer}: expected {-self.layers} to {self.layers - 1}, the model has "
                f"{self.layers}"
            )
        opened = self._opened[0]
        where = opened.layout, self.context, stride, layer % self.layers + 1
        return embed(opened.model, self._piece(counts), *where)

    @functools.cached_property
    def _online(self) -> list[OnlineDecoder]:
        streams, dtype = self._live
        return [
            OnlineDecoder(
                opened.model,
                opened.layout,
                self.context,
                opened.model.keeps,
                opened.readout.filters if opened.readout else None,
                dtype,
                streams,
            )
            for opened in self._opened
        ]

    def step(self, counts: np.ndarray) -> np.ndarray:
        """Covariates of the next bin, as it arrives: what earlier bins left is kept, nothing anew.

        As `launch/decode.py --cache`; equal to `decode`, but for the type that it computes in.
        Masked models and those with identities can keep nothing: each window is run anew, in fp32.

        Args:
            counts: (channels,), or where several streams were asked for (streams, channels).
        Returns:
            (dims,) or (streams, dims) float32, in the units of the recording.
        """
        counts = self._bin(counts)
        return self._mean([online.step(counts) for online in self._online])

    def observe(self, counts: np.ndarray) -> None:
        """Read the next bin, as `step` does, and predict nothing."""
        counts = self._bin(counts)
        for online in self._online:
            online.observe(counts)

    def reset(self) -> None:
        """Forget all bins that `step` and `observe` have read."""
        for online in self._online:
            online.reset()

    def _mean(self, found: list[np.ndarray]) -> np.ndarray:
        """Of all exports' predictions, in the units of the recording."""
        scaled = [one * scale for one, scale in zip(found, self._scales, strict=True)]
        return mean_of(scaled).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """All that `step` and `observe` have left, as arrays for `np.savez`."""
        found = {"session": np.array(self.session), "exports": np.array(len(self._online))}
        for number, online in enumerate(self._online):
            found |= {f"{number}.{name}": array for name, array in online.state().items()}
        return found

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state`, to the bit.

        Args:
            state: Of a decoder of the same export, context, streams and dtype; also as `np.load`
                opens what `np.savez` wrote.
        """
        if "session" in state and str(state["session"]) != self.session:
            raise BadInput(f"state: of session {state['session']}, this one is {self.session}")
        if "exports" in state and (exports := int(state["exports"])) != len(self._online):
            raise BadInput(f"state: of {exports} exports, this one has {len(self._online)}")
        before = [online.state() for online in self._online]
        try:
            for number, online in enumerate(self._online):
                start = f"{number}."
                own = {k.removeprefix(start): state[k] for k in state if k.startswith(start)}
                online.restore(own)
        except BadInput:
            for online, kept in zip(self._online, before, strict=True):
                online.restore(kept)
            raise

    def _bin(self, counts: np.ndarray) -> np.ndarray:
        """Counts of one bin, checked."""
        given = np.asarray(counts)
        whole = whole_counts(np.atleast_2d(given), "counts", any_shape=True)
        return as_uint8(whole, 0.0, self.bin_ms / 1000).reshape(given.shape)

    def _piece(self, counts: np.ndarray) -> Piece:
        """The counts as a stretch of a session whose covariates nobody knows."""
        spikes = whole_counts(np.asarray(counts), "counts", any_shape=True)
        if spikes.shape[1] != self.channels:
            raise BadInput(
                f"counts of shape {spikes.shape}; expected (bins, {self.channels}), the channels "
                f"of session {self.session}"
            )
        spikes = as_uint8(spikes, 0.0, self.bin_ms / 1000)
        return Piece(0, spikes, np.full((len(spikes), len(self.names)), np.nan, np.float32))


def open_decoder(
    path: str | Path | Sequence[str | Path],
    session: str = "",
    *,
    arrays: Sequence[int] = (),
    context: int = 0,
    device: str = "",
    streams: int = 1,
    dtype: str = "auto",
) -> Decoder:
    """Open an export to decode a session that it was fitted to.

    Args:
        path: Of the export, a folder or an address (docs/programs.md); of several that were fitted
            to one session, the mean of their predictions is given.
        session: Id of the session; empty = the only one.
        arrays: Channels of each electrode array, for an export that does not say.
        context: Bins that a prediction may see; 0 = a window of the training.
        device: Such as cpu; empty = a GPU if there is one.
        streams: That `step` decodes together.
        dtype: What `step` computes in: fp32, bf16, int8 (CPUs); auto = bf16 where the device has
            it, else fp32.
    """
    names = [path] if isinstance(path, str | Path) else [*path]
    if not names:
        raise BadInput("no export; expected one or more")
    if context < 0:
        raise BadInput(f"context {context}: expected at least 1 bin, or 0 for a window")
    paths = [str(local_export(name)) for name in names]
    units = [read_units(name, session) for name in paths]
    for name, each in zip(paths, units, strict=True):
        for what in ("session", "names", "bin_ms", "window"):
            first, own = getattr(units[0], what), getattr(each, what)
            if own != first and not (what == "window" and context):
                raise BadInput(
                    f"{paths[0]} has {what} {first}, {name} has {own}; expected exports that were "
                    "fitted to one session"
                )
    opened = []
    for name, each in zip(paths, units, strict=True):
        channels = [int(n) for n in arrays] or each.channels
        if not channels:
            raise BadInput(f"{name}: does not say how many channels it has; give arrays=[96, 96]")
        opened.append(open_export(name, each, channels, device))
    if len({int(each.layout.real.sum()) for each in opened}) > 1:
        raise BadInput(f"{', '.join(paths)}: were fitted to other numbers of channels")
    return Decoder(opened, units, context or units[0].window, streams, dtype)
