"""What the plan reckons is what DeepSpeed's engine holds and sends, on two ranks of a CPU."""

import sys
from pathlib import Path

import pytest

from ndt3_dist.config import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
from plan_memory import rows_of

NEEDS_GB = {"base_45m_200h.yaml": 10, "big_350m_2kh.yaml": 20}


def available_gb() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    (kilobytes,) = [line.split()[1] for line in lines if line.startswith("MemAvailable")]
    return int(kilobytes) / 1e6


@pytest.mark.drill
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize(("config", "row"), [(n, 1024) for n in NEEDS_GB])
def test_a_rank_holds_and_sends_what_is_reckoned(config, row, stage):
    if available_gb() < NEEDS_GB[config]:
        pytest.skip(f"{config} on two ranks needs {NEEDS_GB[config]} GB of memory")
    memory, network = rows_of((config, stage, 2, row))
    assert abs(float(memory["off"].rstrip("%"))) < 10
    assert network["given MB"] == network["plan MB"]
