"""Windows to tokens: what streams mean to NDT3.

numpy only. Order within a window: identities; then by bin; within a bin constraint, spikes, return,
covariates (joel99/ndt3 at 472466a).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.objective.identities import count_of, names_of, rows_of
from ndt3_dist.model.objective.masking import draw_hidden, hidden_bins
from ndt3_dist.model.space_ids import SpaceIds

if TYPE_CHECKING:  # an export loads without the corpus's code
    from ndt3_dist.shards.manifest import Session

Sample = dict[str, np.ndarray]
"""The streams of a window by name."""

DUMMY_TIME = 100
"""Bin of upstream's dummy covariate token: its longest window."""
MAX_PLACES = 256
"""Kinds of windows that a layout remembers; emitted context makes many."""


@dataclass
class Layout:
    """How the channels of one session become patches.

    Attributes:
        columns: Channel of each patch slot, channels where it is padding, (patches, per_token).
        real: Real channels of each patch, (patches,).
        dims: Covariate dimensions.
        identities: Rows of the tokens that each window begins with, (identities,).
        places: Of windows met before.
    """

    columns: np.ndarray
    real: np.ndarray
    dims: int
    identities: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    places: dict[tuple, "Places"] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, session: "Session", config: ModelConfig) -> "Layout":
        """Raises BadInput where a session has more channels or covariates than the model, or
        identities that it has not learned."""
        channels, names = [a.channels for a in session.arrays], names_of(session, config.context)
        return cls.from_counts(channels, len(session.covariates), config, session.id, names)

    @classmethod
    def from_counts(
        cls,
        arrays: list[int],
        dims: int,
        config: ModelConfig,
        name: str,
        identities: Sequence[str] = (),
    ):
        """
        Args:
            arrays: Channels of each.
            name: Of the session.
            identities: Names of its identities, where `config.context` asks for them.
        """
        if bool(config.context) != bool(identities):
            raise BadInput(
                f"session {name}: the model's windows begin with identities of "
                f"{', '.join(config.context) or 'nothing'}, {', '.join(identities) or 'none'} are "
                "known; fit it to the session first (launch/finetune.py)"
            )
        per = config.channels_per_token
        columns, real, first, total = [], [], 0, sum(arrays)
        for channels in arrays:
            for start in range(0, channels, per):
                count = min(per, channels - start)
                columns.append(
                    np.r_[np.arange(first + start, first + start + count), [total] * (per - count)]
                )
                real.append(count)
            first += channels
        if len(columns) * per > -(-config.max_channels // per) * per:
            raise BadInput(
                f"session {name} fills {len(columns)} patches of {per} channels; "
                f"model.max_channels {config.max_channels} allows {-(-config.max_channels // per)}"
            )
        if dims > config.behavior_dim:
            raise BadInput(
                f"session {name} has {dims} covariates; model.behavior_dim is {config.behavior_dim}"
            )
        rows = rows_of(identities, config, name)
        return cls(np.array(columns, np.int64), np.array(real, np.int64), dims, rows)


@dataclass
class Window:
    """One window as tokens.

    Attributes:
        arrays: Named as in `PackedTokens`, slots counted from 0.
        length: Tokens.
        layout: Of its session.
    """

    arrays: dict[str, np.ndarray]
    length: int
    layout: Layout


class NDT3Packing:
    """Windows of a corpus for NDT3 (`model.contract.Packing`)."""

    def __init__(self, sessions: Sequence["Session"], config: ModelConfig):
        self.sessions, self.config = sessions, config
        self.layouts: dict[int, Layout] = {}
        self.dims = np.array([len(s.covariates) for s in sessions])
        per = config.channels_per_token
        patches = [sum(-(-a.channels // per) for a in s.arrays) for s in sessions]
        self.per_bin = np.array(patches) + self.dims
        self.dummies = has_dummy(self.dims, config).astype(np.int64)
        self.identities = np.array([count_of(s, config.context) for s in sessions], np.int64)

    def layout(self, session: int) -> Layout:
        """Of a row of the session table. Raises BadInput where the model cannot hold it."""
        if session not in self.layouts:
            entry = self.sessions[session]
            if not entry.arrays:
                raise BadInput(f"session {entry.id} has no spikes, which NDT3 reads")
            self.layouts[session] = Layout.of(entry, self.config)
        return self.layouts[session]

    def check(self, sessions: list[int]) -> None:
        for session in sessions:
            self.layout(session)

    def tokens(self, index: np.ndarray) -> np.ndarray:
        """Tokens of each window, (windows,) int64."""
        session = index["session"]
        tokens = index["bins"] * self.per_bin[session] + self.dummies[session]
        tokens += self.identities[session]
        if not self.config.context_tokens:
            return tokens
        constraints, has_constraint = recorded(index, "constraint")
        returns, has_return = recorded(index, "return")
        # Where none are recorded: a zero constraint of each dimension, and an absent return.
        tokens += np.where(has_constraint, constraints // 3, np.maximum(self.dims[session], 1))
        return tokens + np.where(has_return, returns // 2, 1)

    def counts(self, index: np.ndarray) -> np.ndarray:
        """Spike and covariate targets of each window, (windows, 2) int64."""
        spikes, _ = recorded(index, "spikes")
        if self.config.objective == "masked":
            bins = index["bins"].astype(np.int64)
            spikes = spikes // bins * hidden_bins(bins, self.config)
        covariates, _ = recorded(index, "covariates")
        return np.stack([spikes, covariates + self.dummies[index["session"]]], axis=1)

    def window(
        self, sample: Sample, session: int, draw: Callable[[], np.random.Generator]
    ) -> Window:
        layout, blank = self.layout(session), None
        if self.config.covariate_mask_rate < 1:
            blank = draw().random(sample["covariates"].shape) < self.config.covariate_mask_rate
        hidden = None
        if self.config.objective == "masked":
            size = len(sample["spikes"]), len(layout.real)
            hidden = draw_hidden(*size, self.config, draw())
        return Window(*tokenise(sample, layout, self.config, blank, hidden), layout)

    def pack(self, windows: list[Window]) -> dict[str, np.ndarray]:
        lists = TokenLists([w.arrays for w in windows], [w.length for w in windows])
        return lists.pack()


def recorded(index: np.ndarray, stream: str) -> tuple[np.ndarray, np.ndarray]:
    """Valid values of a stream in each window, int64, and whether it is there; (windows,) both."""
    if stream not in (index.dtype.names or ()):
        return np.zeros(len(index), np.int64), np.zeros(len(index), bool)
    return index[stream]["values"].astype(np.int64), index[stream]["size"] > 0


def has_dummy(dims, config: ModelConfig):
    """Whether windows with so many covariates end with upstream's dummy token, as `dims`."""
    return (dims == 0) & config.dummy_covariate


@dataclass
class TokenLists:
    """Token arrays of one or more windows, growing; `pack` joins them."""

    parts: list[dict[str, np.ndarray]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def add(self, arrays: dict[str, np.ndarray], length: int) -> None:
        self.parts.append(arrays)
        self.lengths.append(length)

    def pack(self) -> dict[str, np.ndarray]:
        """All windows laid end to end, with `cu_seqlens` (segments + 1,) int32."""
        starts = np.cumsum([0, *self.lengths])
        packed = {}
        for name in self.parts[0]:
            shift = starts if name.endswith("_slot") else np.zeros_like(starts)
            packed[name] = np.concatenate(
                [p[name] + s if s else p[name] for p, s in zip(self.parts, shift, strict=False)]
            )
        packed["cu_seqlens"] = starts.astype(np.int32)
        return packed


@dataclass(frozen=True)
class Places:
    """What of a window's tokens depends on its session, its length and its context alone.

    Attributes:
        fixed: Arrays of `PackedTokens` that are the same for all such windows.
        length: Tokens.
    """

    fixed: dict[str, np.ndarray]
    length: int

    @classmethod
    def of(
        cls,
        layout: Layout,
        ids: SpaceIds,
        has_constraint: np.ndarray,
        has_return: np.ndarray,
        per_constraint: int,
        dummy: int,
    ) -> "Places":
        """
        Args:
            has_constraint, has_return: In which bins such tokens are emitted, (bins,) bool.
            per_constraint: Constraint tokens of such a bin.
            dummy: 1 where the window ends with the dummy covariate.
        """
        bins, dims, patches = len(has_constraint), layout.dims, len(layout.columns)
        before = len(layout.identities)
        # Where each part of each bin begins.
        in_bin = has_constraint * per_constraint + patches + has_return + dims
        start = before + np.concatenate([[0], np.cumsum(in_bin)])
        length = int(start[-1]) + dummy
        spike_start = start[:-1] + has_constraint * per_constraint
        spike_slot = spike_start[:, None] + np.arange(patches)
        constraint_slot = start[:-1][has_constraint][:, None] + np.arange(per_constraint)
        return_slot = (spike_start + patches)[has_return]
        covariate_slot = (spike_start + patches + has_return)[:, None] + np.arange(dims)
        covariate_slot = np.r_[covariate_slot.reshape(-1), [length - 1] * dummy].astype(np.int64)
        space = np.zeros(length, np.int64)  # 0 is that of identities
        space[spike_slot] = ids.spikes + np.arange(patches)
        space[covariate_slot] = ids.covariates + np.r_[np.tile(np.arange(dims), bins), [0] * dummy]
        space[constraint_slot] = ids.constraint + np.arange(per_constraint)
        space[return_slot] = ids.returns
        fixed = {
            "time": np.r_[
                [0] * before, np.repeat(np.arange(bins), in_bin), [DUMMY_TIME] * dummy
            ].astype(np.int64),
            "space": space,
            "spike_channels": np.tile(layout.real, bins),
            "spike_slot": spike_slot.reshape(-1),
            "covariate_slot": covariate_slot,
            "constraint_slot": constraint_slot.reshape(-1),
            "return_slot": return_slot,
            "identity": layout.identities,
            "identity_slot": np.arange(before),
        }
        return cls(fixed, length)


def tokenise(
    sample: Sample,
    layout: Layout,
    config: ModelConfig,
    blank: np.ndarray | None = None,
    hidden: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], int]:
    """Tokens of one window.

    Args:
        layout: Its session's layout.
        config: Model the tokens are for.
        blank: Covariate inputs to hide, (bins, dims) bool; None hides all, as NDT3 trains.
        hidden: Neural tokens that a masked model has to do without, (bins, patches) bool; None
            hides none.
    Returns:
        Arrays named as in `PackedTokens` (slots counted from 0), and the number of tokens.
    """
    spikes, covariates, dims = sample["spikes"], sample["covariates"], layout.dims
    bins = len(spikes)
    constraint, has_constraint = _constraint_bins(sample, dims, config)
    returns, has_return = _return_bins(sample, bins, config)
    dummy = int(has_dummy(dims, config))
    ids = SpaceIds.of(config)
    per_constraint = constraint.shape[1]
    key = (ids, has_constraint.tobytes(), has_return.tobytes(), per_constraint, dummy)
    places = layout.places.get(key)
    if places is None:
        if len(layout.places) >= MAX_PLACES:
            layout.places.clear()
        places = Places.of(layout, ids, has_constraint, has_return, per_constraint, dummy)
        layout.places[key] = places
    finite = np.isfinite(covariates)
    values = np.where(finite, np.clip(covariates, -1, 1), 0).astype(np.float32).reshape(-1)
    valid, unseen = finite.reshape(-1), np.ones(bins * dims, bool)
    if blank is not None:
        unseen = (blank | ~finite).reshape(-1)
    if dummy:
        values, valid = np.zeros(1, np.float32), np.ones(1, bool)
        unseen = valid
    padded = np.zeros((bins, spikes.shape[1] + 1), np.uint8)
    padded[:, :-1] = spikes
    arrays = {
        **places.fixed,
        "spikes": padded.take(layout.columns, axis=1).reshape(-1, layout.columns.shape[1]),
        "spike_hidden": np.zeros(bins * len(layout.real), bool)
        if hidden is None
        else hidden.reshape(-1),
        "covariates": values,
        "covariate_valid": valid,
        "covariate_blank": unseen,
        "constraint": constraint.reshape(-1, 3),
        "returns": returns,
    }
    return arrays, places.length


def _constraint_bins(sample: Sample, dims: int, config: ModelConfig):
    """Constraint triplets, (emitted bins, dims, 3) float32, and in which bins they are emitted.

    They are emitted at bin 0 and wherever any entry changes; a recording without them has zeros
    at bin 0 (one, where it has no covariates either).
    """
    bins, constraint = len(sample["spikes"]), sample.get("constraint")
    emitted = np.zeros(bins, bool)
    if not config.context_tokens:
        return np.zeros((0, max(dims, 1), 3), np.float32), emitted
    emitted[0] = True
    if constraint is None:
        return np.zeros((1, max(dims, 1), 3), np.float32), emitted
    emitted[1:] = (np.diff(constraint, axis=0) != 0).any(axis=(1, 2))
    return constraint[emitted].transpose(0, 2, 1).astype(np.float32), emitted


def _return_bins(sample: Sample, bins: int, config: ModelConfig):
    """Return and reward + 1, (emitted bins, 2) int64; a single absent (0, 0) where unrecorded."""
    emitted = np.zeros(bins, bool)
    if not config.context_tokens:
        return np.zeros((0, 2), np.int64), emitted
    returns = sample.get("return")
    if returns is None:
        emitted[0] = True
        return np.zeros((1, 2), np.int64), emitted
    emitted[:] = True
    return returns.astype(np.int64) + 1, emitted
