"""Pretrain NDT3 on a corpus with DeepSpeed ZeRO.

Example:
    deepspeed -q --num_accelerators 2 launch/pretrain.py --config demo.yaml data.corpus=corpora/mine
    deepspeed -q --hostfile hosts launch/pretrain.py --config big_350m_2kh.yaml \\
        data.corpus=s3://lab/corpus --resume auto
    torchrun --standalone --nproc-per-node 8 launch/pretrain.py --config big_350m_2kh.yaml
"""

import argparse
import json
import os
import signal
import time

import yaml

from ndt3_dist import log
from ndt3_dist.config import find_file, load_config
from ndt3_dist.engines.command import end_launcher, wait_for_runner
from ndt3_dist.errors import Ndt3DistError
from ndt3_dist.train.pretrain_config import PretrainConfig

FIRST_S = 2.0
"""Time that the first rank has to say that it stopped, and to leave the run to others."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="YAML file or name of a shipped config")
    parser.add_argument(
        "--resume", default="never", metavar="never|auto|STEP", help="default: never"
    )
    parser.add_argument(
        "--init",
        metavar="EXPORT",
        help="start a new run from its weights, and optimiser if it has: a folder, s3://, https:// "
        "or hf://ORG/NAME",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print what would run, and stop"
    )
    parser.add_argument(
        "--stop-code",
        type=int,
        default=0,
        metavar="N",
        help="exit code of a run that was asked to stop and saved, for a scheduler to start it "
        "again (default: 0, as of one that is over)",
    )
    parser.add_argument("--note", default="", help="why it starts, kept in RUN/starts.jsonl")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the launcher's
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    args = parser.parse_intermixed_args()
    with log.rank_0_first():
        config = load_config(PretrainConfig, find_file(args.config, "configs"), args.overrides)
    if args.print_config:
        from ndt3_dist.engines.engine import deepspeed_dict
        from ndt3_dist.train.settings import with_micro_batch

        log.say(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if not config.train.micro_batch:
            log.note("train.micro_batch is chosen when a run begins; what DeepSpeed gets is of 1")
        train = with_micro_batch(config, 1).train
        log.say(json.dumps({"deepspeed": deepspeed_dict(train, world_size)}, indent=1))
        return 0
    log.say(f"pretrain {config.run.name} on {config.data.corpus}, --resume {args.resume}")
    with log.waiting("loading torch"):
        from ndt3_dist.train.faults import fault
        from ndt3_dist.train.pretrain import pretrain
        from ndt3_dist.train.start import run_folder

    try:
        result = pretrain(config, args.resume, args.init, args.note)
    except (Ndt3DistError, FileNotFoundError, PermissionError):
        raise
    except Exception as e:
        # The launcher ends all ranks as soon as one has left; this one says its own first.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise fault(run_folder(config), int(os.environ.get("RANK", "0")), e) from e
    if log.is_first_rank() and result["stopped"]:
        if "SIGINT" in result["stopped"]:
            wait_for_runner(5.0)
        log.say(
            f"stopped after step {result['steps']} ({result['stopped']}), "
            f"saved step {result['saved'] or 'none'}; --resume auto goes on"
        )
    elif log.is_first_rank() and result["loss_first"] is not None:
        log.say(
            f"done: {result['steps']} steps, loss {result['loss_first']:.4f} -> "
            f"{result['loss_last']:.4f}"
        )
    if not (result["stopped"] and args.stop_code):
        return 0
    if not log.is_first_rank():  # a launcher ends all ranks when one has failed: the first speaks
        time.sleep(FIRST_S)
    return args.stop_code


if __name__ == "__main__":
    log.run_program(main, end_launcher)
