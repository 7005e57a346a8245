"""A plan in words and tables."""

from collections.abc import Sequence
from dataclasses import replace

from ndt3_dist.cluster.plan.corpus_size import CorpusSize
from ndt3_dist.cluster.plan.network import NVLINK, volumes
from ndt3_dist.cluster.plan.problems import Problem
from ndt3_dist.cluster.plan.run_length import Cluster, Course, efficiency
from ndt3_dist.cluster.plan.speed import SLOWER, work_of
from ndt3_dist.cluster.plan.stored import Fetched, Kept
from ndt3_dist.engines.memory import USABLE, count_parameters, largest_micro_batch, memory_of
from ndt3_dist.errors import BadInput
from ndt3_dist.train.pretrain_config import PretrainConfig

GB = 1e9


def memory_rows(config: PretrainConfig, cluster: Cluster) -> list[dict]:
    """What a rank holds, by stage, offload and recompute, at the plan's micro-batch."""
    model, width, card = config.ndt3, config.data.row_tokens, cluster.card.memory
    stages = (0, 1, 2, 3) if config.train.precision == "fp32" else (1, 2, 3)
    rows = []
    for stage in stages:
        for offload in (False, True)[: 2 if stage else 1]:
            for recompute in (False, True):
                change = {"zero_stage": stage, "offload": offload, "recompute": recompute}
                train = config.train.model_copy(update=change)
                found = memory_of(model, train, train.micro_batch * width, cluster.gpus, gpu=True)
                try:
                    most = str(largest_micro_batch(model, train, width, cluster.gpus, card))
                except BadInput:
                    most = "none"
                rows.append(
                    {
                        "": "*" if train == config.train else "",
                        "ZeRO": stage,
                        "offload": "yes" if offload else "",
                        "recompute": "yes" if recompute else "",
                        **{k: f"{v / GB:.2f}" for k, v in vars(found).items()},
                        "GB": f"{found.total / GB:.1f}",
                        "fits": "yes" if found.total <= USABLE * card else "no",
                        "most rows": most,
                    }
                )
    return rows


def network_rows(
    config: PretrainConfig, cluster: Cluster, course: Course, networks: Sequence[str]
) -> list[dict]:
    """What is sent in a step, by stage, and how long that takes on each network."""
    parameters, rows = count_parameters(config.ndt3), []
    for stage in (0, 1, 2, 3) if config.train.precision == "fp32" else (1, 2, 3):
        train = config.train.model_copy(update={"zero_stage": stage})
        parts = volumes(parameters, train, course.accumulation)
        share = (cluster.gpus - 1) / cluster.gpus
        sent = sum(v.bytes * v.times * v.passes for v in parts) * share
        took = {
            f"{name} s": f"{sum(map(replace(cluster, network=name).fabric.seconds, parts)):.3g}"
            for name in networks
        }
        said = "; ".join(f"{v.what}, x{v.times}" for v in parts)
        exposed = " + ".join("beyond computing" if v.hidden else "all" for v in parts)
        rows.append(
            {"ZeRO": stage, "GB sent": f"{sent / GB:.2f}", **took, "exposed": exposed, "what": said}
        )
    return rows


def curve_rows(courses: Sequence[Course]) -> list[dict]:
    """The run by number of GPUs."""
    rows = []
    for course in courses:
        cost = {} if course.cost is None else {"cost": f"{course.cost:,.0f}"}
        rows.append(
            {
                "GPUs": course.gpus,
                "micro-batch": course.micro_batch,
                "hours": f"{course.hours:,.1f}",
                "GPU-hours": f"{course.gpu_hours:,.0f}",
                **cost,
                "tokens/s": f"{course.tokens_per_s:,.0f}",
                "MFU": f"{course.mfu:.1%}",
                "efficiency": f"{efficiency(course, courses):.1%}",
            }
        )
    return rows


def head_lines(config: PretrainConfig, size: CorpusSize) -> list[str]:
    """Model and corpus."""
    model, work = config.ndt3, work_of(config.ndt3, size.window)
    return [
        f"model: {count_parameters(model):,} parameters, {model.layers} layers of {model.dim}, "
        f"{config.train.precision}; {work.needed / 1e9:.3f} GFLOP a token, forward and backward, "
        f"{work.attention / work.needed:.1%} of it attention",
        f"corpus: {size.source}",
        f"  {size.windows:,} windows ({size.hours:,.1f} h), {size.window.tokens:.0f} tokens each, "
        f"{size.tokens:,} tokens in {size.rows:,} rows an epoch, {size.fill:.1%} full; "
        f"{size.bytes / GB:.1f} GB in {size.shards:,} shards",
    ]


def run_lines(config: PretrainConfig, size: CorpusSize, cluster: Cluster, course: Course):
    """Steps, time and cost."""
    train, net = config.train, course.network
    mfu = f"MFU {cluster.mfu:.1%} as given" if cluster.mfu else (
        f"by a roofline, {SLOWER - 1:.0%} slower as an H200 was"
    )  # fmt: skip
    joined = "one host" if course.nodes == 1 else f"{course.nodes} hosts of {cluster.per_node}"
    kind = cluster.network if course.nodes > 1 and cluster.network != NVLINK else "NVLink or PCIe"
    hides = net.exposed < net.seconds
    part = "what computing does not hide" if hides else "all of it exposed"
    cost = f", cost {course.cost:,.0f}" if course.cost is not None else ""
    tokens = course.steps * train.global_batch * config.data.row_tokens * size.fill
    return [
        f"GPUs: {course.gpus} x {cluster.name}, {joined}, {kind}",
        f"step: {train.global_batch} rows = micro-batch {course.micro_batch} x accumulation "
        f"{course.accumulation} x {course.gpus} ranks; {course.step_s:.4g} s = computing "
        f"{course.computing_s:.4g} ({mfu}) + optimiser {course.optimiser_s:.3g} + network "
        f"{net.exposed:.3g} ({part}; {net.sent / GB:.2f} GB sent a rank in {net.seconds:.3g} s)",
        f"run: {course.steps:,} steps, {course.steps * train.global_batch / size.rows:,.1f} "
        f"epochs, {tokens / 1e9:,.1f} G tokens at {course.tokens_per_s:,.0f}/s, MFU "
        f"{course.mfu:.1%}; {course.hours:,.1f} hours ({course.validation_s / 3600:,.2f} of "
        f"validation), {course.gpu_hours:,.0f} GPU-hours{cost}",
    ]


def store_lines(config: PretrainConfig, found: Fetched, saved: Kept, rate: float) -> list[str]:
    """Store, cache and checkpoints."""
    own = "shards of its own" if found.own_shards else "nearly all shards (data.lanes)"
    room = config.data.cache_gb * 1e9
    fits = "all of them fit" if found.for_all <= room else (
        f"{'enough for' if found.at_once <= room else 'less than'} what is read at once"
    )  # fmt: skip
    return [
        f"from s3://, each host: {own}, {found.bytes / GB:,.1f} GB in {found.requests:,} GETs an "
        f"epoch; {found.all_bytes / GB:,.1f} GB in {found.all_requests:,} GETs in all",
        f"cache: data.cache_gb {config.data.cache_gb:g}: {fits} (at once "
        f"{found.at_once / GB:.1f} GB, all {found.for_all / GB:.1f} GB)",
        f"checkpoints: {saved.bytes / GB:.2f} GB each, {saved.saves:,} saves, {saved.number} kept "
        f"({saved.all_bytes / GB:.1f} GB); {saved.seconds:.1f} s to write at "
        f"{rate / GB:g} GB/s a host"
        + (f", behind training from a copy of {saved.host_copy / GB:.1f} GB a host"
           if saved.host_copy else ""),
    ]  # fmt: skip


def problem_lines(problems: Sequence[Problem]) -> list[str]:
    """What is wrong, and the nearest config that works."""
    lines = []
    for problem in problems:
        way = f"\n    nearest: {' '.join(problem.instead)}" if problem.instead else ""
        lines.append(f"  {'refused' if problem.refused else 'note'}: {problem.said}{way}")
    return lines
