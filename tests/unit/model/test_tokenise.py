"""Windows to tokens: order, slots and targets of what has no covariates."""

import numpy as np
import pytest
from samples import sample_of

from ndt3_dist.model.space_ids import SpaceIds
from ndt3_dist.model.tokenise import DUMMY_TIME, Layout, tokenise


@pytest.mark.parametrize("dummy", [False, True])
def test_a_window_without_covariates_ends_with_upstreams_dummy_token_where_asked(tiny_model, dummy):
    config = tiny_model.model_copy(update={"dummy_covariate": dummy})
    sample = sample_of(np.ones((5, 40), np.uint8), np.zeros((5, 0), np.float32))
    arrays, length = tokenise(sample, Layout.from_counts([40], 0, config, "s"), config)
    assert length == 5 * 2 + dummy
    assert len(arrays["time"]) == len(arrays["space"]) == length
    expected = [(10, DUMMY_TIME, SpaceIds.of(config).covariates, 0.0, True, True)] * dummy
    slots = arrays["covariate_slot"]
    found = zip(
        slots,
        arrays["time"][slots],
        arrays["space"][slots],
        arrays["covariates"],
        arrays["covariate_valid"],
        arrays["covariate_blank"],
        strict=True,
    )
    assert list(found) == expected


def test_the_dummy_token_is_for_windows_without_covariates_alone(tiny_model):
    sample = sample_of(np.ones((5, 40), np.uint8), np.zeros((5, 2), np.float32))
    layout = Layout.from_counts([40], 2, tiny_model, "s")
    plain, _ = tokenise(sample, layout, tiny_model)
    asked, _ = tokenise(sample, layout, tiny_model.model_copy(update={"dummy_covariate": True}))
    assert all(np.array_equal(plain[k], asked[k]) for k in plain)


def test_recorded_constraints_of_no_covariates_are_no_tokens(tiny_model):
    """Without a recording of constraints there is one token, with an empty one there is none."""
    config = tiny_model.model_copy(update={"context_tokens": True})
    layout = Layout.from_counts([40], 0, config, "s")
    spikes, nothing = np.ones((5, 40), np.uint8), np.zeros((5, 0), np.float32)
    for constraint, tokens in ((None, 1), (np.zeros((5, 3, 0), np.float32), 0)):
        sample = sample_of(spikes, nothing, constraint=constraint)
        arrays, length = tokenise(sample, layout, config)
        assert arrays["constraint"].shape == (tokens, 3)
        assert len(arrays["constraint_slot"]) == tokens
        assert len(arrays["space"]) == length == tokens + 5 * 2 + 1
