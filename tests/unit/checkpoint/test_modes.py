"""Files have the modes that the umask gives, so that lab mates can read them."""

import os

import numpy as np
import pytest
import torch
from modes import assert_modes
from small_corpus import make_recording, write_corpus

from ndt3_dist.checkpoint.export import write_export
from ndt3_dist.model.readout import Readout

CONFIG = {
    "model": {"build": "a.b:c"},
    "dtype": "fp32",
    "parameters": 3,
    "trained": {"run": "r", "step": 1, "epochs": 1.0, "corpus": "0" * 64},
}


@pytest.mark.parametrize("mask", [0o022, 0o002])
def test_exports_and_corpora_are_as_the_umask_says(tmp_path, mask):
    before = os.umask(mask)
    try:
        (tmp_path / "all").mkdir()
        write_corpus(tmp_path / "all" / "corpus", [make_recording(1, 10, [8])])
        ones = np.ones(8, np.float32)
        readout = Readout("s", ones, ones)
        norms = {"bin_size_ms": 20.0, "sessions": {}}
        weights = {"w": torch.zeros(3)}
        write_export(tmp_path / "all" / "export", weights, dict(CONFIG), norms, [readout])
        assert_modes(tmp_path / "all")
    finally:
        os.umask(before)
