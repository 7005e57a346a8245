"""Rasters and signals of windows."""

import re
from types import SimpleNamespace

import numpy as np

from ndt3_dist.pages import window_charts
from ndt3_dist.pages.window_charts import as_cells, raster_chart, signal_charts


def test_cells_are_runs_of_bins_with_the_first_channel_below():
    mask = np.zeros((6, 3), bool)
    mask[[1, 2, 5], 0] = mask[0, 2] = True
    assert as_cells(mask) == "M1 2.5h2M5 2.5h1M0 0.5h1"
    assert as_cells(np.zeros((4, 2), bool)) == ""


def test_a_raster_tells_one_spike_from_several_and_has_axes_and_a_key():
    counts = np.zeros((100, 96), np.uint8)
    counts[10, 5], counts[20, 95] = 1, 3
    page = raster_chart("spikes", counts, 50.0)
    one, more = re.findall(r'cells" transform="[^"]*" d="([^"]*)"', page)
    assert (one, more) == ("M10 90.5h1", "M20 0.5h1")
    assert "time in the window, s" in page
    assert "by channel<" in page
    assert "1 in a bin" in page
    assert re.findall(r'class="x"[^>]*>([^<]*)', page) == ["0", "0.5", "1.0", "1.5", "2.0"]
    assert re.findall(r'class="y"[^>]*>([^<]*)', page) == ["0", "20", "40", "60", "80"]


def test_a_raster_is_bounded_and_says_so(monkeypatch):
    monkeypatch.setattr(window_charts, "CHANNELS", 4)
    monkeypatch.setattr(window_charts, "ROWS", 10)
    page = raster_chart("spikes", np.ones((1000, 9), np.uint8), 50.0)
    assert "by channel, the first 4 of 9" in page
    assert page.count("h10") == 4


def test_covariates_are_in_their_own_units_a_chart_for_each():
    names = [("x", "cm/s", 20.0), ("grip", "N", 5.0), ("y", "cm/s", 10.0)]
    covariates = [SimpleNamespace(name=n, unit=u, scale=s) for n, u, s in names]
    session = SimpleNamespace(streams=[], covariates=covariates)
    wave = np.linspace(-1, 1, 100)[:, None] * np.ones(3)
    speed, force = signal_charts(session, "covariates", wave, 50.0, "s")
    assert "</code>, cm/s<" in speed
    assert re.findall(r'class="key[^>]*><code>(.*?)</code>', speed) == ["x", "y"]
    assert re.findall(r'class="y"[^>]*>([^<]*)', speed) == ["-20", "-10", "0", "10", "20"]
    assert "</code>, N<" in force
    assert re.findall(r'class="y"[^>]*>([^<]*)', force) == ["-5.0", "-2.5", "0", "2.5", "5.0"]
