"""A config from the launcher to an export: two steps, a resume at another ZeRO stage, the weights.

Trains two steps with ZeRO-1 on two ranks, goes on for a third with ZeRO-3, exports, and compares
the logits of the export with those of the checkpoint's masters. Times and memory of every part,
memory as the sum over processes of the most that each held.

Example:
    python benchmarks/end_to_end.py --corpus corpora/demo
    python benchmarks/end_to_end.py --corpus corpora/demo --config base_45m_200h.yaml
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from ndt3_dist import load_model, log
from ndt3_dist.checkpoint.export import masters
from ndt3_dist.config import PROJECT, find_file, load_config
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.summary import text_table
from ndt3_dist.train.pretrain_config import PretrainConfig

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, save

from ndt3_dist.model.example import windows

BIN = Path(sys.executable).parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--config", default="big_350m_2kh.yaml")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--row-tokens", type=int, default=1024)
    args = parser.parse_args()
    config = load_config(PretrainConfig, find_file(args.config, "configs"))
    with tempfile.TemporaryDirectory() as folder:
        run, rows = Path(folder) / config.run.name, []
        program = [BIN / "deepspeed", "--num_accelerators", args.ranks, "launch/pretrain.py"]
        program += ["--config", args.config, f"data.corpus={args.corpus}", f"run.dir={folder}"]
        program += [f"data.row_tokens={args.row_tokens}", f"train.global_batch={args.ranks}"]
        program += ["train.micro_batch=1", "log.every_steps=1"]
        for steps, stage in ((2, 1), (3, 3)):
            what = f"ZeRO-{stage}, {args.ranks} ranks, to step {steps}"
            options = [f"train.max_steps={steps}", f"train.zero_stage={stage}", "--resume", "auto"]
            rows.append(measured(what, [*program, *options]))
        exporting = [sys.executable, "checkpoints/convert.py", "export", run, run / "export"]
        rows.append(measured("export", exporting))
        again = [*exporting[:-1], run / "again", "--verify"]
        rows.append(measured("export --verify, every tensor compared", again))
        same = logits_agree(run, config.ndt3)
    text = f"{header('end_to_end.py')}\n{args.config}, rows of {args.row_tokens} tokens\n\n"
    text += f"{text_table(rows)}\n\nlogits of the export and of the masters: {same}\n"
    log.say(text)
    log.say(str(save(f"end_to_end_{Path(args.config).stem}", text)))


def measured(what: str, command: list) -> dict:
    """Run a program; its seconds and memory. Its output is shown."""
    began, most = time.perf_counter(), {}
    program = subprocess.Popen([*map(str, command)], cwd=PROJECT)
    above = psutil.Process(program.pid)
    while program.poll() is None:
        try:
            for process in [above, *above.children(recursive=True)]:
                most[process.pid] = max(most.get(process.pid, 0), process.memory_info().rss)
        except psutil.Error:
            continue
        time.sleep(0.2)
    if program.returncode:
        raise SystemExit(f"{what} ended with exit code {program.returncode}")
    took = time.perf_counter() - began
    return {"what": what, "s": f"{took:.0f}", "memory, GB": f"{sum(most.values()) / 1e9:.1f}"}


@torch.no_grad()
def logits_agree(run: Path, config: ModelConfig) -> str:
    """Whether the exported model gives the logits of the masters, bit for bit."""
    tokens = PackedTokens.from_numpy(windows(config, 1))
    exported = load_model(run / "export")
    found = exported.spike_logits(exported.features(tokens), tokens)
    _, weights = masters(run, None, torch.float32, log.say)
    exported.load_state_dict(weights)
    model: NDT3 = exported.eval()
    expected = model.spike_logits(model.features(tokens), tokens)
    if not torch.equal(found, expected):
        raise SystemExit(f"logits differ by {(found - expected).abs().max():.2g}")
    return f"bit-equal ({found.numel():,} of them)"


if __name__ == "__main__":
    log.run_program(main)
