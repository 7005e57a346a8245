"""Three: features of each bin, layer by layer, and how well a straight line reads velocity off."""

import numpy as np

import ndt3_dist

test = ndt3_dist.open_corpus("corpora/example", "test").session("example-A-day1")
decoder = ndt3_dist.open_decoder("runs/example/export")
for layer in range(decoder.layers):
    features = decoder.embed(test.spikes, layer, stride=10)
    _, rest, *_ = np.linalg.lstsq(features, test.covariates, rcond=None)
    print("layer", layer, features.shape, "residual", rest)
