"""When an NWB recording is valid: rows of a table of intervals, a mask series, or both."""

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.clocks import stored_error
from ndt3_dist.readers.nwb.nwb_file import NwbFile
from ndt3_dist.readers.nwb.nwb_series import Series, find_series, read_times
from ndt3_dist.readers.options import CovariatesRecipe, ReadOptions
from ndt3_dist.readers.spans import intersect, merge, runs


def read_validity(nwb: NwbFile, recipe: ReadOptions, covariates: Series | None, file_s: float):
    """Valid stretches in s, (spans, 2), or None where the recipe does not ask; and what the
    distance of their edges from other times may be off by.

    Args:
        recipe: Its `validity` decides.
        covariates: All samples of the covariates that have a time, for a mask that has theirs.
        file_s: End of the file's spikes in s, to check the rate of a mask against.
    """
    rule = recipe.validity
    found, error, more = None, 0.0, 0.0
    if rule.table:
        found, error = table_spans(nwb, recipe)
    if rule.mask:
        valid, more = mask_spans(nwb, recipe, covariates, file_s)
        found = intersect(found, valid)
    if found is not None and not len(found):
        raise BadInput(f"is nowhere valid: no {rule.table or rule.mask} as validity asks")
    return found, max(error, more)


def table_spans(nwb: NwbFile, recipe: ReadOptions) -> tuple[np.ndarray, float]:
    """Intervals of the rows that are valid, wider or narrower as the recipe says, and the error of
    their edges."""
    rule = recipe.validity
    tables = nwb.intervals()
    if rule.table not in tables:
        nwb.table(f"intervals/{rule.table}")  # which says where it lies in another file
        raise BadInput(
            f"no intervals {rule.table!r}; the file has {', '.join(sorted(tables)) or 'none'}"
        )
    table = tables[rule.table]
    for column in filter(None, (rule.start, rule.stop, rule.column)):
        if column not in table.colnames:
            raise BadInput(
                f"{rule.table} has no column {column!r}; it has {', '.join(table.colnames)}"
            )
    columns = [table.numbers(name) for name in (rule.start, rule.stop)]
    edges, error = np.column_stack(columns), stored_error(*columns)
    if rule.column:
        said = [as_text(v) for v in table.rows(rule.column)]
        edges = edges[np.isin(said, rule.values)]
        if not len(edges):
            raise BadInput(
                f"no row of {rule.table} has {rule.column} {' or '.join(rule.values)}; found "
                f"{', '.join(sorted(set(said))[:8])}"
            )
    # Rows with a NaN edge fall out here: no stop is later than it, and it is before none.
    return merge(edges + np.array([-rule.before_ms, rule.after_ms]) / 1000, error), error


def as_text(value) -> str:
    """A value of a table as a recipe writes it: R, 1, 2.5."""
    if isinstance(value, bool | np.bool_ | int | float | np.number):
        return f"{float(value):.10g}"
    return str(value)


def mask_spans(
    nwb: NwbFile, recipe: ReadOptions, covariates: Series | None, file_s: float
) -> tuple[np.ndarray, float]:
    """Stretches in which a mask series is true, and the error of their edges."""
    rule = recipe.validity
    series = find_series(nwb, rule.mask, "mask")
    valid = series.data()
    if valid.ndim == 2 and valid.shape[1] == 1:
        valid = valid[:, 0]
    if valid.ndim != 1 or not np.isin(valid, (0, 1)).all():
        raise BadInput(f"{rule.mask} is no mask; expected one 0 or 1 a sample")
    valid = valid.astype(bool) != rule.invert
    if rule.clock == "own":
        like = recipe.covariates if recipe.covariates.path else recipe.spikes
        options = CovariatesRecipe(stamped=like.stamped, repair=recipe.covariates.repair)
        clock = read_times(series, len(valid), options, file_s)
    else:
        assert covariates is not None  # the recipe is refused otherwise
        clock = covariates
        if clock.of != len(valid):
            raise BadInput(
                f"{rule.mask} has {len(valid)} samples, the covariates {clock.of}; with "
                "validity.clock=covariates they are the same samples"
            )
    valid = valid[clock.which]
    return merge(runs(valid, clock.times, clock.period), clock.error), clock.error
