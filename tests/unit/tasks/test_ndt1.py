"""NDT1: what it looks at, how trials are masked, and its training by the one loop."""

import math

import numpy as np
import pytest
import torch
from nlb_trials import config_for, tensors_of

from ndt3_dist.config import check
from ndt3_dist.errors import BadInput, ResumeMismatch
from ndt3_dist.shards.manifest import read_manifest
from ndt3_dist.simulate.lorenz import lorenz_trials
from ndt3_dist.tasks.nlb.ndt1 import NDT1, build
from ndt3_dist.tasks.nlb.ndt1_config import Ndt1Config
from ndt3_dist.tasks.nlb.ndt1_packing import TrialPacking, masked
from ndt3_dist.tasks.nlb.nlb_data import make_data
from ndt3_dist.tasks.nlb.nlb_datasets import DATASETS
from ndt3_dist.tasks.nlb.nlb_h5 import write_h5
from ndt3_dist.tasks.nlb.nlb_search import ask, base_of, check_search
from ndt3_dist.tasks.nlb.nlb_settings import space_of
from ndt3_dist.tasks.nlb.nlb_snapshots import candidates, open_snapshot, rates_of, read_weights
from ndt3_dist.tasks.nlb.nlb_training import search_to, train
from ndt3_dist.train.pretrain_config import PretrainConfig

SMALL = {"heldin": 5, "heldout": 3, "bins": 20, "forward": 4, "layers": 2, "hidden": 8}


def config(**changes) -> Ndt1Config:
    return Ndt1Config.model_validate({**SMALL, **changes})


def model_of(**changes) -> NDT1:
    torch.manual_seed(0)
    return NDT1(config(**changes)).eval()


def sample(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    spikes = rng.poisson(0.5, (24, 8)).astype(np.uint8)
    return {"spikes": spikes, "observed": np.ones((24, 2), np.float16)}


@pytest.mark.parametrize(("ahead", "back"), [(3, 5), (-1, 4), (2, -1), (-1, -1), (2, 0)])
def test_a_bin_looks_as_far_as_its_context(ahead, back):
    model = model_of(layers=1, context_forward=ahead, context_backward=back)
    given = torch.zeros(1, 24, 8, dtype=torch.uint8)
    other = given.clone()
    other[0, 10, 2] = 3
    apart = (model.log_rates(given) - model.log_rates(other)).abs().amax((0, 2)) > 1e-7
    first = 10 - ahead if ahead >= 0 else 0
    last = 10 + back if back > 0 else 23
    assert torch.nonzero(apart).flatten().tolist() == list(range(first, last + 1))


def test_masks_have_the_shares_that_the_settings_say():
    rng, counts = np.random.default_rng(0), np.full((4000, 5), 2, np.uint8)
    for width in (1, 5):
        c = config(mask_ratio=0.3, mask_token_ratio=0.6, mask_random_ratio=0.5, mask_max_span=width)
        draws = [masked(counts, c, rng) for _ in range(20)]
        told = np.concatenate([t for _, t in draws])
        given = np.concatenate([g for g, _ in draws])
        assert (told.all(axis=1) == told.any(axis=1)).all()  # whole bins
        share = told[:, 0].mean()
        assert 0.25 < share < 0.31  # runs that overlap tell fewer
        assert (given[~told] == 2).all()
        # Hidden: .6. Random counts of those given (0, 1): half of the rest, half of them 0.
        assert (given[told] == 0).mean() == pytest.approx(0.6 + 0.4 * 0.5 * 0.5, abs=0.03)
        assert (given[told] == 1).mean() == pytest.approx(0.4 * 0.5 * 0.5, abs=0.03)
    lengths = np.diff(np.flatnonzero(np.diff(np.r_[0, masked(counts, c, rng)[1][:, 0], 0])))[::2]
    assert lengths.min() >= 1


def test_heldout_units_and_what_is_behind_are_told_and_never_given():
    c, one = config(mask_ratio=0.5), sample()
    one["observed"][3, 1] = 0
    packing = TrialPacking([], c)
    window = packing.window(one, 0, lambda: np.random.default_rng(3))
    assert not window["given"][:, 5:].any()
    assert not window["given"][20:].any()
    labels = window["labels"]
    assert labels[:20, 5:].sum() == 19 * 3
    assert not labels[3, 5:].any()  # not observed
    assert labels[20:].all()
    assert 0 < labels[:20, :5].mean() < 1
    again = packing.window(one, 0, lambda: np.random.default_rng(3))
    assert (again["given"] == window["given"]).all()
    with pytest.raises(BadInput, match="a window of 23 bins; the model has trials of 20"):
        packing.window({k: v[:23] for k, v in one.items()}, 0, lambda: np.random.default_rng())


def test_the_loss_is_the_poisson_loss_of_what_is_told():
    model, packing = model_of(), TrialPacking([], config())
    rng = np.random.default_rng(0)
    windows = [packing.window(sample(s), 0, lambda: rng) for s in range(3)]
    batch = model.batch(packing.pack(windows), torch.device("cpu"))
    out = model(batch, 3 * 24 * 8)
    log_rates = model.log_rates(batch["given"]).double()
    counts = batch["counts"].double()
    nll = torch.nn.functional.poisson_nll_loss(log_rates, counts, reduction="none")
    expected = nll[batch["labels"]].sum() / model.config.labelled
    expected = float(expected.detach())
    assert float(out.sums[0]) == pytest.approx(expected, rel=1e-6)
    assert float(out.loss.detach()) == pytest.approx(expected / (3 * 24 * 8), rel=1e-5)
    assert float(model.by_segment(out, batch).sum()) == pytest.approx(float(out.sums[0]))
    share = np.mean([w["labels"].mean() for w in windows])
    assert share == pytest.approx(model.config.labelled, abs=0.1)
    found = model.predictions(out, windows)
    assert found[2]["counts"].shape == (24, 8)


def test_untrained_rates_lie_around_the_first_rate():
    model = model_of(first_rate=0.02)
    rates = rates_of(model, np.zeros((4, 20, 5)))
    assert math.exp(np.log(rates).mean()) == pytest.approx(0.02, rel=0.8)


def test_rates_of_trials_that_the_model_is_not_made_for_are_refused():
    with pytest.raises(BadInput, match=r"trials of shape \(20, 6\).*made for \(20, 5\)"):
        rates_of(model_of(), np.zeros((2, 20, 6)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": 3}, "8 units x embed 1 are no multiple of heads 3"),
        ({"zero_mask": False}, "zero_mask: false needs embed above 0"),
        ({"dropuot": 0.1}, "unknown key dropuot .did you mean dropout"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(BadInput, match=said):
        build({**SMALL, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Lorenz trials of mc_maze_small at 20 ms: 24 to train on, 12 to look at."""
    folder = tmp_path_factory.mktemp("lorenz")
    made = lorenz_trials(36, 45, 12, 0, mean_count=0.5)
    write_h5(folder / "tensors.h5", tensors_of(made.spikes, {"train": 24, "eval": 12}, 8))
    source, options = str(folder / "tensors.h5"), ["num_workers=0"]
    return make_data(DATASETS["mc_maze_small"], source, folder / "data", 20, options)[0]


def test_a_training_that_was_stopped_goes_on_to_the_same_snapshots(data, tmp_path):
    whole = config_for(data, tmp_path / "whole")
    found = train(whole)
    assert found["stopped"] == ""
    assert found["steps"] == 12
    cut = config_for(data, tmp_path / "cut")
    assert "step 5" in train(cut, until=5)["stopped"]
    assert train(cut)["steps"] == 12
    for kind in ("masked", "unmasked"):
        one, other = (
            read_weights(tmp_path / run / "export" / f"{kind}.safetensors")
            for run in ("whole", "cut")
        )
        assert all(torch.equal(one[name], other[name]) for name in one)
    snapshots = candidates(tmp_path)
    assert {s.name for s in snapshots} <= {"cut/masked", "cut/unmasked"}  # each weights once
    best = open_snapshot(tmp_path / "whole/export/masked.safetensors", "whole")
    assert best.corpus == data.fingerprint
    assert best.scores["val_loss"] <= 3
    with pytest.raises(ResumeMismatch, match="the run exists"):
        train(whole)


def test_a_searchs_trial_tells_its_score_at_each_look(data, tmp_path):
    import yaml

    chosen = config_for(data, tmp_path / "a")
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(chosen.model_dump(mode="json")))
    job = {"config": str(path), "metric": "val_loss", "until": 4}
    first = search_to(job)
    assert first
    assert (first["steps"], first["over"]) == (4, False)
    last = search_to(job | {"until": 0})
    assert last
    assert (last["steps"], last["over"]) == (12, True)
    assert search_to(job | {"until": 0}) == last
    assert last["score"] <= first["score"]


@pytest.mark.parametrize("name", DATASETS)
def test_every_datasets_space_fits_its_config(data, name):
    values = config_for(data, "x").model_dump(mode="json")
    check_search(base_of(values, []), ask(name, 3, 0, "random", (0, 3), None))
    assert "model.mask_ratio" in space_of(name)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"model.dropot": [0.1]}, "model.dropot is not searched .did you mean model.dropout"),
        ({"train.epochs": [1]}, "train.epochs is not searched"),
        ({"model.dropout": {"uniform": [0.5, 1.5]}}, "dropout"),
    ],
)
def test_a_space_that_does_not_fit_is_refused_before_anything_starts(data, space, said):
    values = config_for(data, "x").model_dump(mode="json")
    with pytest.raises(BadInput, match=said):
        check_search(base_of(values, []), ask("mc_maze", 3, 0, "random", (0, 3), space))


def test_a_corpus_with_other_units_is_refused(data):
    values = config_for(data, "x").model_dump(mode="json")
    values["model"] |= {"heldin": 7, "heldout": 5}
    model = build(check(PretrainConfig, values, "x").model.model_dump())
    with pytest.raises(BadInput, match=r"has units .*'heldin': 8.*the model has .*'heldin': 7"):
        model.packing(read_manifest(data.corpus).sessions).check([0])
