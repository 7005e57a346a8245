"""What the plan reckons for trainings that others have published, beside what they say.

llm-foundry's MPT models of 24 layers (12 for 125M), FSDP, bf16, no recomputed activations, rows of
2,048 tokens; its MFU counts 6 FLOP a parameter and token and the whole square of attention
(scripts/train/benchmarking/README.md at 8c8dd48), so tokens are turned into that. NDT3's own runs
as the notes in its SLURM headers have them (joel99/ndt3 at 472466a), with our configs, 80 % of the
hours in training and windows of 803 tokens.

Example:
    python benchmarks/plan_published.py
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from ndt3_dist import log
from ndt3_dist.cluster.plan.corpus_size import of_hours
from ndt3_dist.cluster.plan.network import Fabric, Volume
from ndt3_dist.cluster.plan.run_length import Cluster, course_of
from ndt3_dist.cluster.plan.speed import KERNELS_BLOCK, KERNELS_ENDS, OF_BLOCK, OF_ENDS, Work
from ndt3_dist.config import find_file, load_config
from ndt3_dist.model.flops import CARDS
from ndt3_dist.shards.summary import text_table
from ndt3_dist.train.pretrain_config import PretrainConfig

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, save

LENGTH, VOCABULARY, ROWS = 2048, 50368, 32
OF_LOGIT = 16
"""Bytes moved for each logit of a vocabulary (assumed)."""
MPT = {"125M": (12, 768), "350M": (24, 1024), "760M": (24, 1536), "1B": (24, 2048)}
"""Layers, width; feed-forward four times as wide."""
PUBLISHED = [
    ("125M", "a100-80gb", 8, 0.448),
    ("350M", "a100-80gb", 8, 0.516),
    ("760M", "a100-80gb", 8, 0.569),
    ("1B", "a100-80gb", 8, 0.599),
    ("760M", "h100", 8, 0.349),
    ("1B", "h100", 8, 0.418),
    ("1B", "h100", 512, 0.367),
]
"""Model, card, GPUs, MFU by llm-foundry's formula."""
NDT3 = [
    ("big_350m_2kh.yaml", 1000, 8, (8 * 14 * 24, 8 * 14 * 24), "2 weeks on 8 A100"),
    ("big_350m_2kh.yaml", 1000, 16, (16 * 7 * 24, 16 * 7 * 24), "1 week on 16 A100"),
    ("base_45m_200h.yaml", 1000, 4, (4 * 3 * 24, 4 * 6 * 24), "3 to 6 days on 4 A100"),
]
"""Config, hours, GPUs, GPU-hours at least and at most, as the notes say it."""


def mpt_mfu(size: str, card: str, gpus: int) -> float:
    """MFU that is reckoned, by llm-foundry's formula."""
    layers, dim = MPT[size]
    parameters = 12 * layers * dim * dim + VOCABULARY * dim
    work = Work(
        6 * parameters,
        6 * layers * (LENGTH + 1) * dim,
        (OF_BLOCK * layers + OF_ENDS) * dim + OF_LOGIT * VOCABULARY,
        KERNELS_BLOCK * layers + KERNELS_ENDS,
    )
    tokens, fabric = ROWS * LENGTH, Fabric(CARDS[card], gpus, 8, "ib-ndr")
    computing = work.seconds(CARDS[card], tokens)
    parts = [Volume("", 2 * parameters, 2, 1), Volume("", 2 * parameters, 1, 1)]
    took = max(computing, sum(map(fabric.seconds, parts)))  # FSDP sends while it computes
    theirs = 6 * parameters + 12 * layers * dim * LENGTH
    return tokens * theirs / took / CARDS[card].flops


def mpt_rows() -> list[dict]:
    rows = []
    for size, card, gpus, published in PUBLISHED:
        found = mpt_mfu(size, card, gpus)
        rows.append(
            {
                "MPT": size,
                "GPUs": f"{gpus} x {card}",
                "published MFU": f"{published:.1%}",
                "plan": f"{found:.1%}",
                "plan / published": f"{found / published:.2f}",
            }
        )
    return rows


def ndt3_rows() -> list[dict]:
    rows = []
    for name, hours, gpus, (least, most), said in NDT3:
        config = load_config(PretrainConfig, find_file(name, "configs"), [])
        size = of_hours(config, 0.8 * hours)
        cluster = Cluster("a100-40gb", 1)
        found = course_of(config, size, replace(cluster, gpus=gpus, per_node=4)).gpu_hours
        published = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        rows.append(
            {
                "NDT3": f"{name.removesuffix('.yaml')}, {hours:,} h",
                "as they say": said,
                "GPU-hours": published,
                "plan": f"{found:,.0f}",
                "plan / published": f"{found / most:.2f}"
                + ("" if least == most else f" to {found / least:.2f}"),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    text = (
        f"{header('python benchmarks/plan_published.py')}; a prediction: no GPU was used\n\n"
        f"{text_table(mpt_rows())}\n\n{text_table(ndt3_rows())}\n"
    )
    log.say(f"{text}\n{save('plan_published', text)}")


if __name__ == "__main__":
    log.run_program(main)
