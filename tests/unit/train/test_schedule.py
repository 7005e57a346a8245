"""The learning rate at points measured on joel99/ndt3 (472466a) with timm and Lightning."""

import pytest

from ndt3_dist.engines.engine_config import OptimConfig
from ndt3_dist.train.schedule import learning_rate

UPSTREAM = OptimConfig(lr=1e-4)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 1e-5), (1, 1.18e-5), (2, 1.36e-5), (49, 0.982e-4), (50, 0.9758e-4), (400, 0.1045e-4)],
)
def test_upstreams_schedule(epoch, expected):
    assert learning_rate(UPSTREAM, epoch) == pytest.approx(expected, rel=2e-3)


def test_the_shifted_cosine_has_no_step_where_the_warm_up_ends():
    optim = OptimConfig(lr=1e-3, schedule="cosine", warmup_epochs=10, decay_epochs=100)
    assert learning_rate(optim, 9.999) == pytest.approx(learning_rate(optim, 10.0), rel=1e-3)
    assert learning_rate(optim, 10) == pytest.approx(1e-3)
    assert learning_rate(optim, 100) == learning_rate(optim, 200) == pytest.approx(1e-6)


def test_wsd_keeps_its_peak_and_falls_along_a_line():
    optim = OptimConfig(
        lr=1e-3, lr_min=0, schedule="wsd", warmup_epochs=10, stable_epochs=80, decay_epochs=100
    )
    assert learning_rate(optim, 5) == pytest.approx(0.55e-3)
    for epoch, expected in ((10, 1e-3), (80, 1e-3), (90, 0.5e-3), (100, 0), (120, 0)):
        assert learning_rate(optim, epoch) == pytest.approx(expected)
