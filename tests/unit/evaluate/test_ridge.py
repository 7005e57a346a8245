"""Ridge in closed form: both ways of solving, penalties by target, lags, a file of predictions."""

import numpy as np
import pytest

from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.predictions import mean_of, read_predictions, save_predictions
from ndt3_dist.evaluate.ridge import fit_linear, lagged, solutions
from ndt3_dist.evaluate.splits import last_part


def data(rows, dims, targets, seed=0):
    draw = np.random.default_rng(seed)
    x = draw.normal(1, 1, (rows, dims))
    return x, x @ draw.normal(0, 1, (dims, targets)) + draw.normal(0, 1, (rows, targets))


@pytest.mark.parametrize(("rows", "dims"), [(80, 12), (12, 80)])
def test_fits_are_those_of_the_normal_equations(rows, dims):
    x, y = data(rows, dims, 5)
    for found, penalty in zip(solutions(x, y, [0.5, 30.0]), (0.5, 30.0), strict=True):
        centred, about = x - x.mean(0), y - y.mean(0)
        gram = centred.T @ centred + penalty * np.eye(dims)
        expected = np.linalg.solve(gram, centred.T @ about)
        np.testing.assert_allclose(found.weights, expected, atol=1e-8)
        np.testing.assert_allclose(found.predict(x).mean(0), y.mean(0))


def correlation(true, guess):
    true, guess = true - true.mean(0), guess - guess.mean(0)
    return (true * guess).sum(0) / np.sqrt((true**2).sum(0) * (guess**2).sum(0))


def test_each_target_may_have_its_penalty_and_all_rows_are_fitted_in_the_end():
    x, y = data(60, 30, 2)
    y[:, 1] = np.random.default_rng(9).normal(0, 1, 60)  # noise wants the highest penalty
    y[5, 0] = np.nan
    penalties = [0.01, 1e6]
    fit, score = last_part(60, 0.3)
    found = fit_linear(x, y, fit, score, correlation, penalties)
    kept = np.delete(np.arange(60), 5)
    for target, penalty in enumerate(np.asarray(found.penalty)):
        (alone,) = solutions(x[kept], y[kept], [float(penalty)])
        np.testing.assert_allclose(found.weights[:, target], alone.weights[:, target])
    assert np.asarray(found.penalty)[0] == 0.01
    one = fit_linear(x, y, fit, score, lambda t, p: float(-((t - p) ** 2).sum()), penalties)
    assert one.penalty in penalties


def test_lags_look_back_and_ahead():
    values = np.arange(1, 6, dtype=float)[:, None]
    found = lagged(values, [0, 2, -1])
    assert found.tolist() == [[1, 0, 2], [2, 0, 3], [3, 1, 4], [4, 2, 5], [5, 3, 0]]
    assert not lagged(values, [7, -7]).any()


def test_predictions_come_back_and_their_mean_is_of_the_same_bins(tmp_path):
    truth = np.array([[1.0, np.nan], [2.0, 3.0]])
    result = {"session": "a", "truth": truth, "predictions": {"m": truth + 1, "ridge": truth * 2}}
    save_predictions(tmp_path / "p.npz", result)
    found = read_predictions(tmp_path / "p.npz")
    assert found["session"] == "a"
    np.testing.assert_array_equal(found["truth"], truth)
    np.testing.assert_array_equal(found["predictions"]["ridge"], truth * 2)
    (tmp_path / "other.npz").write_bytes(b"x")
    with pytest.raises(BadInput, match="not an evaluation"):
        read_predictions(tmp_path / "other.npz")
    assert mean_of([np.zeros((3, 2)), np.ones((3, 2))]).tolist() == [[0.5, 0.5]] * 3
    with pytest.raises(BadInput, match="expected the same bins"):
        mean_of([np.zeros((3, 2)), np.ones((4, 2))])
