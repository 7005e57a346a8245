"""Losses of each dataset in a step that mixes them; what losses are divided by."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_corpus import make_recording, write_corpus
from streams import one_stream

from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.data.stream import Step
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.train import step as step_module
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.step import by_group, dataset_means, loss_divisors


def test_losses_of_a_dataset_are_those_of_its_windows_alone(tmp_path, tiny_model, monkeypatch):
    write_corpus(tmp_path / "c", [make_recording(i, 20, [40]) for i in (1, 2)])
    stream = one_stream(tmp_path / "c", tiny_model)
    torch.manual_seed(0)
    model = NDT3(tiny_model).eval()

    def sums_of(numbers):
        windows = [stream.builder.window(number, 0) for number in numbers]
        batch = model.batch(stream.packing.pack(windows), torch.device("cpu"))
        out = model(batch, 1, 1)
        return out, model.by_segment(out, batch)

    numbers, groups = [0, 12, 3], np.array([1, 0, 1])
    with torch.no_grad():
        _, of_segment = sums_of(numbers)
        sums = by_group(of_segment, groups, ["a", "b", "none"])
        for group, own in ((0, [12]), (1, [0, 3])):
            alone, _ = sums_of(own)
            assert sums[group].tolist() == pytest.approx(alone.sums.tolist(), rel=1e-5)
    assert sums[2].tolist() == [0, 0]
    monkeypatch.setattr(step_module.dist, "all_reduce", lambda tensor: tensor)
    told = {"datasets": ["a", "b", "none"], "counts_of": stream.counts_of}
    told["datasets_of"] = lambda _: groups
    run = SimpleNamespace(stream=SimpleNamespace(**told), targets=model.targets)
    work = Step([], [(0, 0, np.array(numbers))], np.zeros(4))
    found = dict(dataset_means(run, work, sums))
    assert set(found) == {f"loss_{k}/{d}" for k in ("spikes", "covariates") for d in "ab"}
    spikes, values = stream.counts_of(np.array([0, 3])).sum(0).tolist()
    assert found["loss_spikes/b"] == float(sums[1, 0]) / spikes
    assert found["loss_covariates/b"] == float(sums[1, 1]) / values


def test_losses_are_divided_by_the_whole_steps_counts_or_by_upstreams_means():
    def divisors(*overrides):
        config = load_config(PretrainConfig, PROJECT / "configs" / "demo.yaml", overrides)
        counts = np.array([[320, 4], [960, 0]])  # of samples 0 and 1
        stream = SimpleNamespace(counts_of=lambda samples: counts[samples])
        rows = [(0, 0, np.array([0])), (2, 0, np.array([1]))]
        work = Step([(0, {}), (2, {})], rows, np.array([9, 999, 5000, 70]))
        return loss_divisors(SimpleNamespace(config=config, stream=stream), work)

    assert divisors("train.global_batch=4") == [[5000, 70]] * 2
    # Four micro-batches over all ranks: each weighs a quarter, whatever it holds.
    theirs = divisors("train.global_batch=4", "train.upstream_means=true")
    assert theirs == [[4 * 320, 16], [4 * 960, 0]]


def test_a_sample_knows_its_dataset(tmp_path, tiny_model):
    write_corpus(tmp_path / "c", [make_recording(i, 20, [40]) for i in (1, 2)])
    corpus = Corpus(str(tmp_path / "c"))
    of_other = corpus.manifest.sessions[1].model_copy(update={"dataset": "other"})
    corpus.manifest.sessions[1] = of_other
    stream = one_stream(corpus, tiny_model)
    assert stream.datasets == ["other", "t"]
    session = corpus.index["session"]
    numbers = np.arange(len(session))
    assert stream.datasets_of(numbers).tolist() == [[1, 0][s] for s in session]
