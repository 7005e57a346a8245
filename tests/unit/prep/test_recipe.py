"""Recipes are refused for what is wrong with them, by name, before anything is read."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.recipe import Recipe, SplitRule, load_recipe

RECIPES = Path(__file__).resolve().parents[3] / "data_prep" / "recipes"
SHIPPED = sorted(RECIPES.glob("*.yaml"))
WINDOWS = {"falcon_b1_001046.yaml": 40, "fmri.yaml": 64}
"""Bins of a window, where it is not the 2 s of NDT3: trials of a second, samples of 1.49 s."""


@pytest.fixture
def nwb_yaml():
    return RECIPES / "nwb.yaml"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_recipes_load_and_name_no_key_that_is_unknown(path):
    assert load_recipe(path).window_bins == WINDOWS.get(path.name, 100)


def test_an_unknown_key_is_refused_with_the_nearest_name(nwb_yaml):
    with pytest.raises(BadInput, match="bin_size_ms"):
        load_recipe(nwb_yaml, ["bin_size=20"])
    with pytest.raises(BadInput, match="max_gap_ms"):
        load_recipe(nwb_yaml, ["covariates.max_gap=20"])


def test_all_problems_of_a_recipe_are_said_at_once(nwb_yaml):
    with pytest.raises(BadInput) as caught:
        load_recipe(nwb_yaml, ["bin_size_ms=fast", "shard_mb=-1", "spikes.channels=row"])
    for name in ("bin_size_ms", "shard_mb", "spikes.channels"):
        assert name in str(caught.value)


def test_an_override_beats_the_file(nwb_yaml):
    assert load_recipe(nwb_yaml, ["bin_size_ms=10"]).window_bins == 200


@pytest.mark.parametrize("changes", [{"bin_size_ms": 30}, {"window_ms": 10}])
def test_windows_that_are_no_multiple_of_bins_are_refused(changes):
    with pytest.raises(ValidationError, match="not a multiple"):
        Recipe(dataset="t", **changes)


@pytest.mark.parametrize(
    "intervals",
    [
        {"train": (0, 0.8), "test": (0.7, 1)},
        {"train": (0, None), "test": (0.8, 1)},
        {"train": (0.2, None), "test": (0, 0.3)},
    ],
)
def test_intervals_that_overlap_are_refused(intervals):
    with pytest.raises(ValidationError, match="overlap"):
        Recipe(dataset="t", splits=[SplitRule(intervals=intervals)])


@pytest.mark.parametrize("span", [(-1, 1), (0.5, 0.5), (0.6, 0.2), (float("nan"), 1)])
def test_intervals_that_begin_before_zero_or_hold_nothing_are_refused(span):
    with pytest.raises(
        ValidationError, match="a finite number" if span[0] != span[0] else "0 <= from < to"
    ):
        Recipe(dataset="t", splits=[SplitRule(intervals={"train": span})])


def test_the_first_rule_that_matches_a_session_decides():
    rules = [
        SplitRule(match="t-A-*", intervals={"test": (0, 1)}),
        SplitRule(match="t-*", intervals={"train": (0, 1)}),
    ]
    recipe = Recipe(dataset="t", splits=rules)
    assert recipe.rule_for("t-A-01") is recipe.splits[0]
    assert recipe.rule_for("t-B-01") is recipe.splits[1]
    assert recipe.rule_for("u-B-01") is None


def test_identity_ignores_where_and_how_a_corpus_is_made_but_not_what():
    here = Recipe(dataset="t", source="a", out="b", num_workers=1, allow_failures=True)
    there = Recipe(dataset="t", source="c", out="s3://d", num_workers=8, ray_address="auto")
    assert here.sha256() == there.sha256()
    assert Recipe(dataset="t", session_from="content").identity() == here.identity()
    assert "session_from" not in here.identity()
    more = {"licence": "CC0-1.0"}, {"session_from": "file_name"}
    for changes in ({"bin_size_ms": 10}, {"shard_mb": 1}, *more):
        assert Recipe(dataset="t", **changes).sha256() != here.sha256()


def test_session_from_is_refused_where_a_reader_has_its_own_keys_for_it():
    with pytest.raises(ValidationError, match=r"reader xds takes mat.session, mat.file_name"):
        Recipe(dataset="t", reader="xds", session_from="file_name")
    assert Recipe(dataset="t", reader="lab:read", session_from="file_name")


def test_seconds_without_their_unit_are_refused():
    rule = {"match": "*", "intervals": {"calibration": [0, 60], "test": [60, None]}}
    with pytest.raises(ValidationError, match="reaches beyond 1, the whole session"):
        Recipe(dataset="d", splits=[rule])
    assert Recipe(dataset="d", splits=[{**rule, "unit": "s"}])


@pytest.mark.parametrize("workers", ["many", "-1", "1.5"])
def test_workers_are_a_number_or_auto(nwb_yaml, workers):
    assert load_recipe(nwb_yaml).num_workers == "auto"
    assert load_recipe(nwb_yaml, ["num_workers=3"]).num_workers == 3
    with pytest.raises(BadInput, match=r"num_workers is .*: expected auto, or a whole number"):
        load_recipe(nwb_yaml, [f"num_workers={workers}"])
