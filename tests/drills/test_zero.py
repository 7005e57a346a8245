"""One loss curve: ZeRO 0 to 3 and plain PyTorch, any number of ranks, changed in mid-run."""

import pytest
import torch
from launching import SMALL, launch, losses

from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.data.feed import Feed
from ndt3_dist.data.order import Cursor, seed_of
from ndt3_dist.data.stream import Stream
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.train.initial import initial_model
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.schedule import learning_rate

pytestmark = [pytest.mark.drill, pytest.mark.timeout(3600)]
SPARE = ["checkpoint.every_steps=1000", "log.every_steps=50"]


def plain(corpus, extra: list[str], steps: int) -> dict[int, float]:
    """The same run without DeepSpeed: one process, one thread, nothing of the engine."""
    overrides = [f"data.corpus={corpus}", *SMALL, *extra]
    config = load_config(PretrainConfig, PROJECT / "configs" / "demo.yaml", overrides)
    torch.set_num_threads(1)
    model, optim, found = initial_model(config), config.optim, {}
    adamw = torch.optim.AdamW(
        model.parameters(), optim.lr, optim.betas, optim.eps, optim.weight_decay
    )
    train = config.train
    opened = Corpus(corpus)
    packing = model.packing(opened.manifest.sessions)
    stream = Stream(Feed(opened, config.data, packing, 0, train.global_batch, train.micro_batch))
    place = Cursor()
    for step, work in zip(range(steps), stream.steps(place), strict=False):
        total = 0.0
        for number, arrays in work.batches:
            torch.manual_seed(seed_of("dropout", 0, step, number))
            tokens = PackedTokens.from_numpy(arrays, "cpu")
            out = model(tokens, *work.counts)
            out.loss.backward()
            total += sum(s.item() / n for s, n in zip(out.sums, work.counts, strict=True))
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.grad_clip)
        for group in adamw.param_groups:
            group["lr"] = learning_rate(optim, stream.plan.epochs(place))
        adamw.step()
        adamw.zero_grad()
        found[step + 1], place = total, work.after
    return found


def run(folder, corpus, ranks, extra, resume="never") -> dict[int, float]:
    code, log = launch(folder, corpus, ranks, [*SPARE, *extra], resume)
    assert code == 0, log
    assert ("no power of two" in log) == (ranks == 3)
    return losses(folder)


def test_fp32_losses_are_those_of_plain_pytorch(corpus, tmp_path):
    same = ["train.precision=fp32", "train.max_steps=50", "model.covariate_weight=1"]
    expected = plain(corpus, same, 50)
    assert expected[50] < expected[1]
    for stage in range(4):
        found = {}
        code, log = launch(
            tmp_path / str(stage), corpus, 2, [*SPARE, *same, f"train.zero_stage={stage}"]
        )
        assert code == 0, log
        found = losses(tmp_path / str(stage))
        worst = max(abs(found[s] / expected[s] - 1) for s in expected)
        print(f"fp32, ZeRO-{stage}: {worst:.1e} of plain PyTorch's at most")
        assert worst < 1e-6


def test_bf16_losses_are_the_same_through_changes_of_ranks_and_stage(corpus, tmp_path):
    expected = run(tmp_path / "whole", corpus, 2, ["train.max_steps=200"])
    for ranks, stage, until, offload in (
        (2, 1, 40, False),
        (1, 3, 80, False),
        (4, 1, 120, True),
        (4, 2, 160, False),
        (2, 3, 200, True),
    ):
        extra = [f"train.zero_stage={stage}", f"train.max_steps={until}"]
        extra += [f"train.offload={offload}"]
        resume = "never" if until == 40 else "auto"
        found = run(tmp_path / "changed", corpus, ranks, extra, resume)
        worst = max(abs(found[s] / expected[s] - 1) for s in found)
        told = f"{ranks} ranks, ZeRO-{stage}{', offload' * offload}"
        print(f"bf16, to step {until} with {told}: {worst:.1e}")
        assert found == {s: expected[s] for s in found}  # to the last bit


def test_bf16_losses_are_near_where_ranks_are_no_power_of_two(corpus, tmp_path):
    six = ["train.max_steps=50", "train.global_batch=6"]  # of which no rank has a power of two
    one = run(tmp_path / "one", corpus, 1, six)
    assert run(tmp_path / "two", corpus, 2, six) == one
    found = run(tmp_path / "three", corpus, 3, six)
    worst = max(abs(found[s] / one[s] - 1) for s in one)
    print(f"bf16, 3 ranks: {worst:.1e}")
    assert worst < 1e-3
