"""Low-rank fine-tuning: what is trained, and that exports hold the sum."""

import pytest
import torch

from ndt3_dist.checkpoint import lineage
from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.data.continuous import Piece
from ndt3_dist.data.order import generator
from ndt3_dist.engines.plain import PlainOptimizer
from ndt3_dist.evaluate.decode import slide
from ndt3_dist.evaluate.metrics import r2_scores
from ndt3_dist.model.load import load_model, read_export_config
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokenise import Layout
from ndt3_dist.tune.finetune import finetune
from ndt3_dist.tune.fit_data import read_fit_data
from ndt3_dist.tune.lora import add_low_rank, merge
from ndt3_dist.tune.tune_config import TuneConfig

RANK = 3


def tune(corpus, folder, *overrides) -> TuneConfig:
    small = ["model.layers=2", "model.dim=64", "model.heads=2", "model.feedforward=64"]
    small += ["train.steps=4", "train.batch=2", "train.eval_every=2", "data.fit=calibration"]
    small += [f"data.corpus={corpus}", f"run.dir={folder}", "optim.warmup_epochs=0"]
    return load_config(TuneConfig, PROJECT / "configs" / "stevenson.yaml", [*small, *overrides])


def noise_run(name: str, channels: int, bins: int = 30) -> Piece:
    draw = generator(name)
    spikes = draw.poisson(0.5, (bins, channels)).astype("uint8")
    return Piece(0, spikes, draw.normal(size=(bins, 2)).astype("float32"))


def test_a_new_update_changes_nothing_and_a_merged_one_is_the_adapted_model(tiny_model):
    model = NDT3(tiny_model).eval()
    layout = Layout.from_counts([40], 2, tiny_model, "s")
    run = noise_run("lora", 40)
    before = slide(model, run, layout, 20, 5)[0]
    names = [n for n, _ in model.named_parameters()]
    added = add_low_rank(model, RANK, 7.0)
    assert len(added) == 2 * tiny_model.layers
    assert (slide(model, run, layout, 20, 5)[0] == before).all()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in added:
                parameter.normal_()
    adapted = slide(model, run, layout, 20, 5)[0]
    assert (adapted != before).any()
    config = load_config(TuneConfig, PROJECT / "configs" / "stevenson.yaml")
    weights = merge(PlainOptimizer(model, config.optim, "fp32").snapshot(), 7.0 / RANK)
    assert sorted(weights) == sorted(names)
    merged = NDT3(tiny_model).eval()
    merged.load_state_dict(weights)
    assert (slide(merged, run, layout, 20, 5)[0] == adapted).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_only_low_rank_updates_move_the_backbone(corpus, tmp_path, precision):
    first = finetune(tune(corpus, tmp_path), None)["export"]
    overrides = ["run.name=lora", f"lora.rank={RANK}", f"train.precision={precision}"]
    config = tune(corpus, tmp_path, *overrides)
    result = finetune(config, first)
    before, after = load_model(first), load_model(result["export"])
    described, old = read_export_config(result["export"]), read_export_config(first)
    assert described["parameters"] == old["parameters"]
    chain, parents = lineage.of_export(described), lineage.of_export(old)
    assert chain[:-1] == parents  # the sum has seen what the frozen weights have
    assert chain[-1]["sessions"] == parents[0]["sessions"] != {}
    old_weights = dict(before.named_parameters())
    for name, weight in after.named_parameters():
        same = torch.equal(weight, old_weights[name])
        if name.startswith("blocks."):
            assert same == (not name.endswith("qkv.weight")), name
            if not same:
                change = (weight - old_weights[name]).detach()
                values = torch.linalg.svdvals(change)
                assert values[RANK - 1] > 1e-3 * values[0] > values[RANK]
        else:
            assert not same, name
    if precision == "fp32":  # in bf16 the sum is rounded after, not before, it is added up
        data = read_fit_data(config)
        layout = Layout.of(data.session, after.config)
        decoded = slide(after, data.last[0], layout, data.window)[0]
        assert r2_scores(data.last[0].covariates, decoded)["r2"] == result["r2_val"]


def test_everything_but_the_updates_can_be_frozen(corpus, tmp_path):
    first = finetune(tune(corpus, tmp_path), None)["export"]
    parts = "train.freeze=[backbone, embeddings, spikes, covariates, context]"
    second = finetune(tune(corpus, tmp_path, "run.name=l", "lora.rank=2", parts), first)["export"]
    before = dict(load_model(first).named_parameters())
    changed = {n for n, w in load_model(second).named_parameters() if not torch.equal(w, before[n])}
    assert changed == {f"blocks.{i}.attention.qkv.weight" for i in range(2)}
