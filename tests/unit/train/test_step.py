"""Losses of each dataset in a step that mixes them."""

import numpy as np
import pytest
import torch
from small_corpus import make_recording, write_corpus

from ndt3_dist.data.data_config import DataConfig
from ndt3_dist.data.stream import Stream
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokenise import TokenLists
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.train.step import by_group, means


def test_losses_of_a_dataset_are_those_of_its_windows_alone(tmp_path, tiny_model):
    write_corpus(tmp_path / "c", [make_recording(i, 20, [40]) for i in (1, 2)])
    stream = Stream(Corpus(str(tmp_path / "c")), DataConfig(), tiny_model, 0, 4, 1)
    torch.manual_seed(0)
    model = NDT3(tiny_model).eval()

    def packed(numbers):
        lists = TokenLists()
        for number in numbers:
            lists.add(*stream._tokens_of(number, 0))
        tokens = PackedTokens.from_numpy(lists.pack())
        return model(tokens, 1, 1), tokens

    with torch.no_grad():
        out, tokens = packed([0, 12, 3])
        sums = by_group(out, tokens, np.array([1, 0, 1]), 3)
        for group, numbers in ((0, [12]), (1, [0, 3])):
            alone, own = packed(numbers)
            expected = alone.spike_sum, own.spike_channels.sum(), alone.covariate_sum
            assert sums[group, :3].tolist() == pytest.approx([float(x) for x in expected], rel=1e-5)
            assert sums[group, 3] == own.covariate_valid.sum()
    assert sums[2].tolist() == [0, 0, 0, 0]
    found = dict(means(["a", "b", "none"], sums.tolist()))
    assert set(found) == {f"loss_{k}/{d}" for k in ("spikes", "covariates") for d in "ab"}
    spikes, channels, squares, values = sums[1].tolist()
    assert found["loss_spikes/b"] == spikes / channels
    assert found["loss_covariates/b"] == squares / values
    assert dict(means(["alone"], [])) == {}


def test_a_sample_knows_its_dataset(tmp_path, tiny_model):
    write_corpus(tmp_path / "c", [make_recording(i, 20, [40]) for i in (1, 2)])
    corpus = Corpus(str(tmp_path / "c"))
    of_other = corpus.manifest.sessions[1].model_copy(update={"dataset": "other"})
    corpus.manifest.sessions[1] = of_other
    stream = Stream(corpus, DataConfig(), tiny_model, 0, 4, 1)
    assert stream.datasets == ["other", "t"]
    session = corpus.index["session"]
    numbers = np.arange(len(session))
    assert stream.dataset_of(numbers).tolist() == [[1, 0][s] for s in session]
