"""One: a corpus of arrays. Put your own counts and covariates here, a row for each bin."""

import numpy as np

import ndt3_dist

draw = np.random.default_rng(0)
velocity = 8 * np.sin(np.arange(3000)[:, None] * [0.05, 0.08])
counts = draw.poisson(np.exp(velocity / 8 @ draw.normal(size=(2, 32)) - 1))
day = ndt3_dist.recording("A", "day1", spike_counts=counts, covariates=velocity, unit="cm/s")
splits = [{"intervals": {"calibration": (0, 0.8), "test": (0.8, 1)}}]
print(ndt3_dist.prepare([day], "corpora/example", dataset="example", splits=splits))
