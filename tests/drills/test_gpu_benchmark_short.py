"""benchmarks/gpu.py on this machine in its short form: every part prints its table."""

import os
import subprocess
import sys

from ndt3_dist.config import PROJECT

TABLES = {
    "kernels": "tests/gpu/test_kernels.py::",
    "goldens": "tests/gpu/test_golden_bf16.py::",
    "shipped": "size   micro-batch  rows   steps  ms",
    "steps": "size   body        activations  tokens",
    "peers": "nn.TransformerEncoder, padded",
    "resume": "30 of 30",
    "streaming": "45M    anew",
    "profile": "products ",
    "attention": "window  body       ms",
}
"""What stands in the report of each part."""


def test_every_part_prints_its_table(tmp_path):
    command = [sys.executable, "benchmarks/gpu.py", "--short", "--minutes=9"]
    command += [f"--results={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    environment.pop("DS_ACCELERATOR", None)  # on a GPU its own, whatever other tests take
    done = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=560
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.iterdir()
    said = file.read_text()
    for part, table in TABLES.items():
        assert table in said.split(f" {part}: ")[1].split("\n== ")[0], said
    assert said.split("== parts")[1].count(" ok") == len(TABLES)
