"""What the demo prints of decoders: the best possible first, then the best."""

from ndt3_dist.programs.demo import decoder_rows

SCORES = {
    "finetuned": {"r2": 0.8, "bits_per_spike": 0.02},
    "readout": {"r2": 0.85, "bits_per_spike": 0.01},
    "ridge": {"r2": 0.83, "bits_per_spike": None},
}
RESULT = {"scores": SCORES, "history": 10, "penalty": 316.2}


def test_decoders_are_told_from_the_best_on_beside_the_best_possible():
    rows = decoder_rows(RESULT, 0.9)
    assert [row["R2"] for row in rows] == ["0.9000", "0.8500", "0.8300", "0.8000"]
    assert rows[0]["decoder"] == "best possible"
    assert rows[1]["decoder"].startswith("readout: ")
    assert rows[1]["of the best possible"] == "94.4%"
    assert rows[2]["decoder"] == "ridge (10 bins of history, penalty 316)"
    assert rows[2]["bits per spike"] == "-"


def test_of_a_real_recording_nobody_knows_what_is_possible():
    rows = decoder_rows(RESULT, None)
    assert list(rows[0]) == ["decoder", "R2", "bits per spike"]
    assert len(rows) == 3
