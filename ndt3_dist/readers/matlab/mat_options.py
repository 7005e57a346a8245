"""The part of a recipe that says where a MATLAB file keeps what we read.

The fields of covariates are those of `covariates.path`, such as handVel.
"""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from ndt3_dist.config import Section

SECONDS = {"s": 1.0, "ms": 1e-3}


class MatRecipe(Section):
    spikes: str = "spikes"
    """Field with times, a cell for each channel (or channels x units, which are summed), or with
    counts; dots lead into structs and struct arrays (data.units.ts)."""
    holds: Literal["times", "counts"] = "times"
    """Whether `spikes` holds times or counts per bin."""
    spikes_in: Literal["s", "ms"] = "s"
    """Unit of spike times."""
    bin_ms: float = Field(default=0, ge=0)
    """Bin size of counts; the recipe's bins are a multiple of it."""
    bins_along: Literal["rows", "columns"] = "rows"
    """rows = counts are bins x channels; columns = channels x bins."""
    bin_times: str = ""
    """Field with the start of each bin of the counts; empty = they begin at `start_s`."""
    arrays: dict[str, int] = {}
    """Name -> channels of each electrode array, in the order of the channels; empty = one."""
    samples_along: Literal["rows", "columns"] = "rows"
    """rows = covariates are samples x dims; columns = dims x samples."""
    times: str = ""
    """Field with the time of each covariate sample; empty = they have `rate_hz`."""
    times_in: Literal["s", "ms"] = "s"
    """Unit of `times` and `bin_times`."""
    rate_hz: float = Field(default=0, ge=0)
    """Rate of covariates that have no times."""
    start_s: float = 0
    """Time of the first covariate sample, and of the first bin, where no field says it."""
    scale: float = Field(default=1, gt=0)
    """Covariates are multiplied by it, such as 0.01 from cm to m."""
    unit: str = ""
    """Unit of the covariates after that."""
    subject: str = ""
    """Field with the subject's name; empty = from the file name."""
    session: str = ""
    """Field with the session's name; empty = from the file name."""
    file_name: str = r"(?P<subject>[A-Za-z0-9]+)[_-](?P<session>.+)"
    """Regular expression on the file name without .mat. Where it does not match, the subject is the
    folder and the session is the file name."""

    @field_validator("file_name")
    @classmethod
    def _has_both(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groupindex
        except re.error as e:
            raise ValueError(f"not a regular expression: {e}") from e
        if not {"subject", "session"} <= set(groups):
            raise ValueError("needs the groups (?P<subject>...) and (?P<session>...)")
        return pattern

    @model_validator(mode="after")
    def _complete(self):
        if any(n < 1 for n in self.arrays.values()):
            raise ValueError("arrays have one channel or more")
        return self
