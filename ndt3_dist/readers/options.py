"""What a reader is told: which series of a recording are spikes and covariates, what is valid."""

from typing import Any, Literal

from pydantic import Field, model_validator

from ndt3_dist.config import Section
from ndt3_dist.readers.matlab.mat_options import MatRecipe


class SpikesRecipe(Section):
    kind: Literal["units", "events", "counts"] = "units"
    """units = spike times of the units table; events = series at `path` whose values are channel
    ids, or that lie on one electrode each; counts = a series at `path` that is binned already,
    (bins, channels)."""
    path: str | list[str] = ""
    """Series of events or counts, such as acquisition/binned_spikes; NAME/* = all of NAME."""
    table: str = "units"
    """Table of the units, such as processing/ecephys/units."""
    channels: Literal["auto", "electrode", "unit"] = "auto"
    """electrode = sum all units of an electrode (NDT3's rule); unit = each unit is a channel;
    auto = electrode where the file says on which electrode each unit is."""
    peak: str = ""
    """Column of the units that says on which of its electrodes each unit is largest; empty = one of
    the usual names (`readers.nwb.nwb_peaks`), else the largest of `waveform_mean`."""
    peak_is: Literal["auto", "row", "id", "place"] = "auto"
    """What that column holds: rows of the electrodes table, ids of it, or places in the unit's own
    list of electrodes, from 0; auto = what alone makes sense."""
    observed: Literal["shared", "any"] = "shared"
    """Where units have different obs_intervals: shared = the recording is what all of them share;
    any = what any has, so that a unit is silent where it was not observed."""
    trial_of: str = ""
    """Ragged column of the units with the trial (id in intervals/trials) of each spike, where spike
    times count from the start of their trial."""
    repair: list[Literal["drop_nan", "sort_restarts"]] = []
    """drop_nan = spikes without a time are left out and counted; sort_restarts = times that go back
    so far that the clock seems to begin anew are of one clock all the same, and sorted."""
    trust_clock: bool = False
    """Times are seconds of the session, whatever else in the file speaks against it."""
    num_channels: int = Field(default=0, ge=0)
    """Channels of events in a file without an electrodes table: a silent one keeps its place."""
    first_channel: int = 0
    """Id of the first of them."""
    stamped: Literal["start", "end"] = "start"
    """Whether the timestamp of a count is the start or the end of its bin."""

    @model_validator(mode="after")
    def _path_where_needed(self):
        if bool(self.path) == (self.kind == "units"):
            wanted = "no path" if self.kind == "units" else "the path of a series"
            raise ValueError(f"spikes.kind {self.kind} takes {wanted}, got {self.path!r}")
        return self


class CovariatesRecipe(Section):
    path: str | list[str] = ""
    """Path of a TimeSeries inside the file, such as processing/behavior/Velocity/cursor_vel, or
    several with the same times, side by side; NAME/* = all series of NAME; empty = none."""
    columns: list[int] = []
    """Which of their dimensions to take, from 0; empty = all."""
    stamped: Literal["start", "end"] = "start"
    """Whether a sample's timestamp is the start or the end of the time that it describes."""
    clock: str = ""
    """Path of the series whose times the samples have, where their own are wrong."""
    rate_is_period: bool = False
    """The file's `rate` is the sample period in s, and not the rate in Hz."""
    offset_is_start: bool = False
    """The file's `offset` is the time of the first sample in s, and not added to the values."""
    repair: Literal["refuse", "drop"] = "refuse"
    """What becomes of samples whose times repeat, are out of order or NaN, and of samples or times
    that are too many: refuse = the recording fails by name; drop = they are left out and counted,
    up to a tenth of all."""
    resample: Literal["auto", "mean", "linear"] = "auto"
    """mean = the mean of a bin's samples; linear = the value at a bin's centre on the line between
    the samples around it; auto = mean where bins hold the same number of samples each, or four and
    more, else linear."""
    causal: bool = False
    """No value looks beyond the end of its bin: the last sample, and not a line to a later one; a
    derivative from the sample before alone."""
    outside: Literal["cut", "keep"] = "cut"
    """What lies before and after all samples: cut = is no part of the recording; keep = is, without
    covariates."""
    drop: list[Literal["repeated_times", "held_values"]] = []
    """repeated_times = samples that are no later than one before them, however many: the part of
    `repair: drop` that older recipes name; held_values = repeats of a value by a clock that is
    faster than the sensor, which is no fault of the file and not counted."""
    derivative: bool = False
    """Differentiate by time (a velocity from a position), never across a gap."""
    names: list[str] = []
    """Names of its dimensions; empty = the file's own, else x, y, z of a position or velocity in
    two or three columns, else the series' name of a single column, else dim0, dim1, ..."""
    quantile: float = Field(default=0.999, gt=0, le=1)
    """A dimension's scale is this quantile of its absolute value in train or calibration bins."""
    max_gap_ms: float = Field(default=100, gt=0)
    """Samples further apart than this leave a gap that is masked, not bridged."""


class ValidityRecipe(Section):
    """When a recording is valid; where both are given, both must hold."""

    table: str = ""
    """Table of intervals: trials, epochs, or another one's name; empty = always."""
    column: str = ""
    """Column of the table that decides; empty = every row counts."""
    values: list[str] = []
    """Values of that column in a valid row, as text; a truth value or number is 0, 1, 2.5, ..."""
    start: str = "start_time"
    """Column with the start of an interval in s; a row without one is not valid."""
    stop: str = "stop_time"
    """Column with its end."""
    before_ms: float = 0
    """How much earlier it begins (negative = later)."""
    after_ms: float = 0
    """How much later it ends."""
    mask: str = ""
    """Series with one truth value a sample, such as acquisition/eval_mask."""
    clock: Literal["own", "covariates"] = "own"
    """Whose times and stamps the mask has."""
    invert: bool = False
    """The mask is true where the recording is not valid."""
    outside: Literal["mask", "cut"] = "mask"
    """mask = covariates are NaN outside; cut = windows lie inside one interval."""

    @model_validator(mode="after")
    def _complete(self):
        if bool(self.column) != bool(self.values) or (self.column and not self.table):
            raise ValueError("validity.column needs a table, and the values that make a row valid")
        return self


class ReadOptions(Section):
    """The part of a recipe that readers see."""

    reader: str = "nwb"
    """Which of `readers` reads the files (nwb, mat, rtt, xds, pyaldata), or a function of one's own
    as package.module:function, called with the path of a file and these options."""
    options: dict[str, Any] = {}
    """For such a function."""
    session_from: Literal["content", "file_name"] = "content"
    """Where an NWB file's session id is from: content = its general/session_id, where it has one;
    file_name = what follows ses- in its name. Where that is not there: all of the name."""
    bin_size_ms: float = Field(default=20, gt=0)
    spikes: SpikesRecipe = SpikesRecipe()
    covariates: CovariatesRecipe = CovariatesRecipe()
    mat: MatRecipe = MatRecipe()
    validity: ValidityRecipe = ValidityRecipe()
