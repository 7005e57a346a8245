"""Numbers and keys as a person reads them."""

import math

import pytest

from ndt3_dist.pages import words
from ndt3_dist.pages.words import R2, Name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0123456, "0.0123"),
        (0.8345678, "0.835"),
        (99.96, "100"),
        (12.345678, "12.3"),
        (-1234.5, "-1.23k"),
        (999_600, "1.00M"),
        (273_600_000, "274M"),
        (3.14e-5, "3.1e-5"),
        (3e-4, "3e-4"),
        (1e20, "1e20"),
        (math.nan, words.NONE),
        (None, words.NONE),
    ],
)
def test_numbers_have_the_digits_that_count(value, text):
    assert words.number(value) == text


def test_units_are_those_that_a_person_would_take():
    found = [words.duration(s) for s in (0.0123, 0.99951, 18, 99.9, 491, 5000, 40_000, 3e5)]
    assert found == ["12 ms", "1000 ms", "18 s", "100 s", "8.2 min", "83 min", "11 h", "3.5 days"]
    assert [words.size(b) for b in (12, 24_600_000, 6.12e10)] == ["12.0 B", "24.6 MB", "61.2 GB"]
    shares = [words.percent(s) for s in (0, 0.0001, 0.0123, 0.4567, 1, None)]
    assert shares == ["0 %", "<0.1 %", "1.2 %", "46 %", "100 %", words.NONE]
    assert [words.count(n) for n in (3, 9999, 9999.6, 12_345)] == ["3", "9,999", "10,000", "12.3k"]
    assert [words.score(v) for v in (0.70912, -123.4, math.inf)] == ["0.709", "-123", words.NONE]
    passes = [words.plural(words.rounded(p), "pass", "passes") for p in (0.44, 1.02, 8, 12.3)]
    assert passes == ["0.4 passes", "1.0 pass", "8.0 passes", "12 passes"]
    assert [words.plural(n, "step") for n in ("1", "2")] == ["1 step", "2 steps"]


def test_keys_become_words_and_names_stay_as_they_are():
    assert words.words("r2_best_possible") == f"{R2} best possible"
    assert words.words("next_r2") == f"next {R2}"
    assert words.words("samples_per_s") == "samples/s"
    assert words.words(Name("my_r2_per_s")) == "my_r2_per_s"
    assert words.capital("loss") == "Loss"
    assert words.capital(Name("loss")) == "loss"


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("seconds", 491, ("whole time", "8.2 min")),
        ("val_s", 0.25, ("validation", "250 ms")),
        ("memory_gb", 0.5424, ("memory", "542 MB")),
        ("waiting_share", 0.029, ("waiting", "2.9 %")),
        ("tokens_per_s", 14939, ("tokens/s", "14.9k")),
        ("loss_first", 1.8883260509, ("loss first", "1.888")),
        ("r2_scratch", None, (f"{R2} scratch", words.NONE)),
        ("seed", 123456, ("seed", "123456")),
        ("is_done", True, ("is done", "yes")),
        ("export", "runs/a_b", ("export", "runs/a_b")),
        ("passes", 7.96, ("passes", "8.0")),
    ],
)
def test_the_end_of_a_key_says_the_unit_of_its_value(key, value, shown):
    assert words.told(key, value) == shown
