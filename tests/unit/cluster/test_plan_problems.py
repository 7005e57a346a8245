"""A plan names all that a config contradicts, as pretraining would say it, and what would work."""

import pytest
import torch

from ndt3_dist.cluster.plan.corpus_size import of_hours
from ndt3_dist.cluster.plan.problems import load, problems, with_ways
from ndt3_dist.cluster.plan.run_length import Cluster, course_of
from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.engines.engine import accumulation
from ndt3_dist.engines.launcher import check_launch
from ndt3_dist.errors import BadInput
from ndt3_dist.train import settings
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.settings import fitted
from ndt3_dist.train.start import check_possible

BIG = PROJECT / "configs" / "big_350m_2kh.yaml"


def config_of(*overrides: str) -> PretrainConfig:
    return load_config(PretrainConfig, BIG, overrides)


def words_of(call) -> str:
    with pytest.raises(BadInput) as refused:
        call()
    return str(refused.value)


def test_a_config_that_is_well_has_no_problems():
    config = config_of("data.lanes=256", "data.cache_gb=100")
    assert problems(config, of_hours(config, 2000), Cluster("a100-40gb", 32)) == []


def test_all_refusals_come_at_once_in_the_words_of_pretraining(monkeypatch, tmp_path):
    config = config_of("train.ranks=4", "train.micro_batch=8", f"run.dir={tmp_path}")
    size, cluster = of_hours(config, 0.1), Cluster("rtx-3090", 30)
    found = problems(config, size, cluster)
    refused = [p.said for p in found if p.refused]
    monkeypatch.setenv("WORLD_SIZE", "30")
    monkeypatch.setattr(settings, "gather", lambda _: [cluster.card.memory] * 30)
    assert refused == [
        words_of(lambda: check_launch(4)),
        words_of(lambda: accumulation(config.train, 30)),
        words_of(lambda: fitted(config, torch.device("meta"))),
    ]
    tiny = config_of("train.epochs=1", f"run.dir={tmp_path}")
    (last,) = [p.said for p in problems(tiny, size, Cluster("h200", 32)) if p.refused]
    assert last == words_of(lambda: check_possible(tiny, size.windows))


@pytest.mark.parametrize(
    ("overrides", "card", "gpus"),
    [
        (["train.micro_batch=8"], "rtx-3090", 30),
        (["train.ranks=4"], "a100-40gb", 7),
        (["model.layers=96"], "a10g", 4),
        (["model.layers=48", "train.micro_batch=4"], "a10g", 4),
    ],
)
def test_the_nearest_config_is_one_that_starts(overrides, card, gpus):
    config, cluster = config_of(*overrides), Cluster(card, gpus)
    size = of_hours(config, 2000)
    assert [p for p in problems(config, size, cluster) if p.refused]
    near, ways = with_ways(config, size, cluster)
    assert near == config_of(*overrides, *ways)
    assert [p for p in problems(near, size, cluster) if p.refused] == []
    assert course_of(near, size, cluster).hours > 0


def test_what_nothing_near_holds_is_refused_without_a_way():
    config, cluster = config_of("model.layers=900"), Cluster("a10g", 1)
    size = of_hours(config, 2000)
    (refused,) = [p for p in problems(config, size, cluster) if p.refused]
    assert refused.said.startswith("a step takes")
    assert refused.instead == ()
    assert with_ways(config, size, cluster)[0] is None


def test_contradictions_of_the_schema_come_with_the_nearest_config():
    given = ["train.micro_batch=7", "validation.patience=3", "validation.every_steps=0"]
    config, (problem,) = load(BIG, [*given, "train.zero_stage=0"])
    assert problem.said == words_of(lambda: config_of(*given, "train.zero_stage=0"))
    for part in ("not a multiple of train.micro_batch 7", "patience needs", "zero_stage 0 has no"):
        assert part in problem.said
    assert problem.instead == (
        "train.micro_batch=6",
        "validation.every_steps=250",
        "train.zero_stage=1",
    )
    assert (config.train.micro_batch, config.train.zero_stage) == (6, 1)
    given = ["train.overlap=true", "train.ranks=2", "train.min_ranks=4"]
    config, (problem,) = load(BIG, given)
    assert problem.instead == ("train.overlap=false", "train.min_ranks=2")
    assert problem.said == words_of(lambda: config_of(*given))
    with pytest.raises(BadInput, match="did you mean micro_batch"):
        load(BIG, ["train.micro_bach=7"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["optim.warmup_epochs=500"], "optim.warmup_epochs 500 outlasts the run"),
        (["optim.schedule=wsd", "optim.stable_epochs=600"], "is not before optim.decay_epochs"),
        (["optim.decay_epochs=100"], "optim.decay_epochs 100 is before the run's end"),
        (["train.max_steps=100"], "checkpoint.every_steps 250 is not before the last step, 100"),
        (["validation.every_steps=1000000"], "validation.every_steps 1000000 is beyond"),
        (["data.lanes=60"], "data.lanes 60 is no multiple of 32 ranks"),
        (["data.block_samples=1000000"], "data.lanes 256 are more than the 3 blocks"),
        (["train.fp8=rowwise", "train.compile=true"], "train.fp8 rowwise: its speed"),
    ],
)
def test_what_would_run_otherwise_than_meant_is_noted(overrides, said):
    config = config_of("data.lanes=256", *overrides)
    found = problems(config, of_hours(config, 2000), Cluster("a100-40gb", 32))
    (note,) = [p for p in found if said in p.said]
    assert not note.refused
    if note.instead:
        better = config_of("data.lanes=256", *overrides, *note.instead)
        again = problems(better, of_hours(better, 2000), Cluster("a100-40gb", 32))
        assert [p for p in again if said in p.said] == []
