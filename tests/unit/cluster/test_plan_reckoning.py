"""What a plan reckons is what was built, counted and measured."""

from dataclasses import replace

import pytest

from ndt3_dist import plain_yaml
from ndt3_dist.cluster.plan.corpus_size import of_corpus, of_hours
from ndt3_dist.cluster.plan.network import NETWORKS, Fabric, Volume, exchange, volumes
from ndt3_dist.cluster.plan.run_length import (
    Cluster,
    course_of,
    curve,
    efficiency,
    fitting,
    to_rent,
)
from ndt3_dist.cluster.plan.speed import SLOWER, computing, work_of
from ndt3_dist.cluster.plan.stored import fetched, kept
from ndt3_dist.config import PROJECT, check, load_config
from ndt3_dist.data.feed import Feed
from ndt3_dist.data.stream import Stream
from ndt3_dist.engines.engine_config import TrainConfig
from ndt3_dist.engines.memory import count_parameters, largest_micro_batch, memory_of
from ndt3_dist.engines.micro_memory import all_layers, traced
from ndt3_dist.errors import BadInput
from ndt3_dist.model.flops import CARDS
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.settings import with_micro_batch

BIG, BASE = "big_350m_2kh.yaml", "base_45m_200h.yaml"
SHIPPED = sorted(p.name for p in (PROJECT / "configs").glob("[!w]*.yaml"))  # words have no plan
SAID = {BIG: 354_165_761, BASE: 44_919_649}
"""Of upstream's models."""
GIB = 2**30
ON_A_CPU = [
    *((BASE, 1, 4015, 2156), (BASE, 2, 4015, 2973), (BASE, 3, 4015, 4111)),
    *((BIG, 1, 803, 6375), (BIG, 2, 803, 6667), (BIG, 3, 803, 8528)),
]
"""Config, ZeRO stage, tokens and MB of a rank of two: results/plan_memory_2026-11-28.txt."""
ROOFLINE = [
    (BIG, "a100-40gb", 16060, 209.9),
    (BIG, "a100-80gb", 48180, 564.1),
    (BIG, "h100", 32120, 159.8),
    (BIG, "h200", 48180, 217.3),
    (BASE, "a100-40gb", 128480, 258.8),
    (BASE, "h200", 32120, 26.9),
]
"""Config, card, tokens, ms with our kernels: benchmarks/results/roofline_2026-11-28.txt."""
MEASURED = [(BIG, 16060, 86.3), (BIG, 48180, 244.3), (BASE, 32120, 31.7), (BASE, 128480, 115.0)]
"""On an H200: benchmarks/results/gpu_2026-11-28.txt."""


def config_of(file: str, *overrides: str) -> PretrainConfig:
    return load_config(PretrainConfig, PROJECT / "configs" / file, overrides)


@pytest.mark.parametrize("file", SHIPPED)
def test_parameters_are_those_of_the_built_model(file):
    values = plain_yaml.load((PROJECT / "configs" / file).read_text()).get("model")
    if values is None:
        pytest.skip("a fine-tune, whose model is its export's")
    model = check(ModelConfig, values, file)
    expected = SAID.get(file) or sum(p.numel() for p in NDT3(model).parameters())
    assert count_parameters(model) == expected


@pytest.mark.parametrize("gpu", [True, False])
def test_a_deep_model_is_reckoned_from_shallow_ones(tiny_model, gpu):
    deep = tiny_model.model_copy(update={"layers": 6})
    for recompute in (False, True):
        size = deep, recompute, "bf16", 2, gpu
        assert all_layers(*size) == traced(*size)


@pytest.mark.parametrize(("file", "stage", "tokens", "megabytes"), ON_A_CPU)
def test_a_rank_holds_what_deepspeed_allocated(file, stage, tokens, megabytes):
    config = config_of(file, f"train.zero_stage={stage}")
    found = memory_of(config.ndt3, config.train, tokens, 2, gpu=False)
    assert found.total / 1e6 == pytest.approx(megabytes, rel=0.07 if stage == 3 else 0.03)


def test_parts_add_up_and_a_small_micro_batch_leaves_other_moments_the_highest():
    config = config_of(BASE)
    train, n = config.train, count_parameters(config.ndt3)
    for stage, least in ((1, 8 * n + 2 * n), (2, 10**9 + 6 * n), (3, 2 * 10**9 + 12 * n)):
        of_stage = train.model_copy(update={"zero_stage": stage})
        found = memory_of(config.ndt3, of_stage, 10, 1, gpu=False)
        states = found.weights + found.masters + found.moments + found.gradients
        assert found.total - states == pytest.approx(least, rel=0.01)
        assert found.activations + found.logits <= found.total - states


@pytest.mark.parametrize(("file", "card", "tokens", "milliseconds"), ROOFLINE)
def test_a_few_numbers_a_token_say_what_the_traced_roofline_says(file, card, tokens, milliseconds):
    config = config_of(file)
    window = of_hours(config, 1).window
    n, train = count_parameters(config.ndt3), config.train
    work = work_of(config.ndt3, window)
    found = computing(work, CARDS[card], train, n, tokens, 1, 1, 8, None)
    adding = 10 * n * SLOWER / (0.86 * CARDS[card].bandwidth)
    took = (found.micro_batches + found.optimiser - adding) / SLOWER
    assert took * 1e3 == pytest.approx(milliseconds, rel=0.05)


@pytest.mark.parametrize(("file", "tokens", "milliseconds"), MEASURED)
def test_a_step_takes_what_it_took_on_an_h200(file, tokens, milliseconds):
    config = config_of(file)
    work, n = work_of(config.ndt3, of_hours(config, 1).window), count_parameters(config.ndt3)
    found = computing(work, CARDS["h200"], config.train, n, tokens, 1, 1, 8, None)
    assert (found.micro_batches + found.optimiser) * 1e3 == pytest.approx(milliseconds, rel=0.1)
    half = computing(work, CARDS["h200"], config.train, n, tokens, 1, 1, 8, 0.5)
    assert half.micro_batches == pytest.approx(tokens * work.needed / (0.5 * 989e12))


def test_ranks_send_what_deepspeed_was_counted_to_send():
    """In a step of two micro-batches (benchmarks/results/plan_memory_2026-11-28.txt)."""
    train, n = config_of(BASE).train, SAID[BASE]
    for stage, megabytes in ((1, 270), (2, 449), (3, 539)):
        of_stage = train.model_copy(update={"zero_stage": stage})
        sent = sum(v.bytes * v.times for v in volumes(n, of_stage, 2))
        assert sent / 1e6 == pytest.approx(megabytes, rel=0.005)


def test_a_ring_is_as_fast_as_its_slowest_link():
    card, sums = CARDS["a100-80gb"], Volume("sum", 10**9, 3, 2)
    alone, host = Fabric(card, 1, 8, "10gbe"), Fabric(card, 8, 8, "10gbe")
    assert alone.seconds(sums) == 0
    assert host.seconds(sums) == pytest.approx(3 * (2e9 * 7 / 8 / 240e9 + 2 * 3 * 20e-6))
    two = {name: Fabric(card, 16, 8, name).rate for name in NETWORKS}
    assert two["10gbe"] == 1e9
    assert two["100gbe"] == 10e9
    assert two["ib-hdr"] == 160e9
    assert two["ib-ndr"] == Fabric(card, 16, 8, "nvlink").rate == 240e9


@pytest.mark.parametrize(
    ("stage", "overlap", "hidden"), [(1, True, 0), (2, False, 0), (2, True, 0.8), (3, False, 1)]
)
def test_what_computing_hides_is_not_waited_for(stage, overlap, hidden):
    train = TrainConfig(global_batch=8, zero_stage=stage, overlap=overlap)
    fabric = Fabric(CARDS["h100"], 64, 8, "25gbe")
    slow, fast = (exchange(fabric, 10**8, train, 1, computing) for computing in (0.0, 100.0))
    assert slow.exposed == slow.seconds
    assert 1 - fast.exposed / fast.seconds == pytest.approx(hidden, abs=0.05)
    between = exchange(fabric, 10**8, train, 1, 0.01)
    assert between.exposed == pytest.approx(slow.seconds - 0.01 * bool(hidden))


def test_a_course_is_consistent_in_itself():
    config = config_of(BIG)
    size, cluster = of_hours(config, 2000), Cluster("a100-40gb", 32, price=1.5)
    course = course_of(config, size, cluster)
    assert course.micro_batch * course.accumulation * 32 == 3072
    assert course.steps == -(-400 * size.rows // 3072)
    assert course.hours == pytest.approx(
        (course.steps * course.step_s + course.validation_s) / 3600
    )
    share = 2048 * 803 / (3072 * 4096 * size.fill)  # of a step's tokens, forward alone
    times = course.steps // 250
    assert course.validation_s == pytest.approx(times * share * course.computing_s / 3)
    assert (course.gpu_hours, course.cost) == (32 * course.hours, 48 * course.hours)
    flops = course.tokens_per_s * work_of(config.ndt3, size.window).needed
    assert course.mfu == pytest.approx(flops / 32 / 312e12)
    assert size.tokens == 3_600_000 * 803  # of 2 s, with 192 channels and 2 covariates
    assert size.rows == pytest.approx(3_600_000 / 5, rel=0.001)  # five windows fit a row
    # Without covariates: neural tokens, an empty constraint and an absent return.
    assert of_hours(config, 1, 96, 0).window.tokens == 302
    short = course_of(config_of(BIG, "train.max_steps=7"), size, cluster)
    assert (short.steps, short.step_s) == (7, course.step_s)


def test_more_gpus_are_faster_and_slower_networks_less_efficient():
    config = config_of(BIG)
    size, last = of_hours(config, 2000), {}
    for network in ("ib-ndr", "100gbe", "10gbe"):
        found = curve(config, size, Cluster("a100-80gb", 1, network=network))
        assert [c.gpus for c in found][:4] == [1, 2, 3, 4]
        assert found[-1].gpus == 1024
        shares = [efficiency(c, found) for c in found]
        assert shares[0] == 1
        assert all(0 < s <= 1.0001 for s in shares)
        last[network] = shares[-1]
        if network == "ib-ndr":
            hours = [c.hours for c in found]
            assert hours == sorted(hours, reverse=True)
    assert last["ib-ndr"] > last["100gbe"] > last["10gbe"]


def test_what_to_rent_is_the_least_that_is_in_time_and_within_the_budget():
    config = config_of(BIG)
    size, cluster = of_hours(config, 2000), Cluster("a100-40gb", 1, price=2.0)
    week = to_rent(config, size, cluster, 7 * 24, None)
    assert week.hours <= 168
    fewer = [c for c in curve(config, size, cluster, range(1, week.gpus)) if c.hours <= 168]
    assert fewer == []
    paid = to_rent(config, size, cluster, None, 9000)
    assert paid.cost is not None
    assert paid.cost <= 9000
    assert paid.hours < week.hours
    with pytest.raises(BadInput, match=r"no number of a100-40gb .* the cheapest, 1, take .* for"):
        to_rent(config, size, cluster, 168, 10)
    with pytest.raises(BadInput, match="--budget needs --price"):
        to_rent(config, size, replace(cluster, price=None), None, 10)
    with pytest.raises(BadInput, match="give --mfu"):
        to_rent(config_of(BIG, "train.precision=fp32"), size, cluster, 168, None)


def test_a_corpus_is_counted_by_its_manifest_as_training_counts_it(corpus, tiny_model):
    config = config_of("demo.yaml", "data.row_tokens=1000", 'data.exclude=["*-02"]')
    config = config.model_copy(
        update={"model": tiny_model.model_copy(update={"context_tokens": True})}
    )
    found = of_corpus(config, corpus)
    opened = Corpus(corpus)
    packing = NDT3(config.ndt3).packing(opened.manifest.sessions)
    plan = Stream(Feed(opened, config.data, packing, 0)).plan
    assert found.windows == plan.sources.num_samples
    assert found.tokens == plan.sources.tokens.sum()
    assert found.rows == pytest.approx(plan.epoch_rows, rel=0.1)
    narrow = config.model_copy(update={"model": tiny_model.model_copy(update={"max_channels": 32})})
    with pytest.raises(BadInput, match="allows 1") as refused:
        of_corpus(narrow, corpus)
    with pytest.raises(BadInput) as by_training:
        NDT3(narrow.ndt3).packing(opened.manifest.sessions[:1]).check([0])
    assert str(refused.value) == str(by_training.value)


def test_hosts_fetch_shards_of_their_own_where_lanes_allow():
    config = config_of(BIG)
    size, cluster = of_hours(config, 2000), Cluster("a100-40gb", 16)
    course = course_of(config, size, cluster)
    apart = fetched(config_of(BIG, "data.lanes=128"), size, course)
    mixed = fetched(config_of(BIG, "data.lanes=130"), size, course)
    assert (apart.own_shards, mixed.own_shards) == (True, False)
    assert mixed.bytes == size.bytes == pytest.approx(2 * apart.bytes, abs=1)
    assert mixed.all_bytes == pytest.approx(400 * size.bytes, rel=0.01)
    roomy = fetched(config_of(BIG, "data.lanes=130", "data.cache_gb=80"), size, course)
    assert roomy.all_bytes == size.bytes  # nothing is fetched twice


def test_checkpoints_are_twelve_bytes_a_parameter():
    config = config_of(BIG, "checkpoint.keep_every=10000")
    size, cluster = of_hours(config, 2000), Cluster("a100-40gb", 16)
    course, n = course_of(config, size, cluster), SAID[BIG]
    found = kept(config, n, course, cluster, 2e9)
    assert found.bytes == 12 * n
    assert found.saves == -(-course.steps // 250)
    assert found.number == 3 + 1 + course.steps // 10000
    assert found.seconds == 12 * n / (2 * 2e9)
    assert found.host_copy == 6 * n


def test_a_micro_batch_that_is_left_open_is_what_a_start_takes():
    config, cluster = config_of(BIG), Cluster("rtx-3090", 8)
    rows = largest_micro_batch(config.ndt3, config.train, 4096, 8, round(23.6 * GIB))
    assert fitting(config, cluster) == with_micro_batch(config, rows)
    assert 1 <= rows < fitting(config, Cluster("h200", 8)).train.micro_batch
