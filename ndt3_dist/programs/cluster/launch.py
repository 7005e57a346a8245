"""Keep a pretraining going on the hosts of a hostfile that answer: fewer, and more again.

Example:
    ndt3 launch --hostfile hosts --config big_350m_2kh.yaml data.corpus=s3://lab/corpus \\
        run.dir=/data/runs train.ranks=64 train.min_ranks=16

Starts `deepspeed` on as many whole hosts as share the micro-batches of a step evenly, between
train.min_ranks and train.ranks. A host that is lost is done without, one that answers again is
taken in: the run saves, ends and goes on. Ctrl-C or SIGTERM: it saves and ends. Hosts are reached
as by `deepspeed`: ssh without a password, what PDSH_SSH_ARGS_APPEND says, the same folders.
"""

import argparse
import contextlib
import signal

import yaml

from ndt3_dist import log, plain_yaml, storage
from ndt3_dist.cluster.launch.hostfile import Bounds, Host, choose, num_ranks, read_hostfile
from ndt3_dist.cluster.launch.over_ssh import Run, end
from ndt3_dist.cluster.launch.supervise import Supervisor, Times
from ndt3_dist.config import find_file, load_config
from ndt3_dist.errors import BadInput, Ndt3DistError
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.run_metrics import CONFIG


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hostfile", required=True, help="a line `HOST slots=N` a host")
    parser.add_argument("--config", required=True, help="YAML file or name of a shipped config")
    parser.add_argument(
        "--resume", default="auto", metavar="never|auto|STEP", help="of the first start"
    )
    parser.add_argument("--init", metavar="EXPORT", help="as of ndt3 pretrain")
    parser.add_argument(
        "--check-s", type=float, default=30, metavar="S", help="between looks at hosts (30)"
    )
    parser.add_argument(
        "--backoff-s", type=float, default=5, metavar="S", help="before a start after a failure (5)"
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    args = parser.parse_intermixed_args()
    path = find_file(args.config, "configs")
    config = load_config(PretrainConfig, path, args.overrides)
    hosts = read_hostfile(args.hostfile)
    folder = storage.join(config.run.dir, config.run.name)
    refuse_hosts(hosts, bounds_of(config), args.hostfile)
    mark = [f"run.dir={config.run.dir}", f"run.name={config.run.name}"]
    words = ["--config", str(path), *(["--init", args.init] if args.init else [])]
    run = Run(args.hostfile, folder, [*words, *args.overrides, *mark], mark)
    times = Times(args.check_s, args.backoff_s, config.checkpoint.stop_within_s)
    supervisor = Supervisor(
        run,
        hosts,
        lambda: bounds_of(config),
        times,
        end,
        lambda text: log.say(f"launch: {text}"),
    )
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop.set())
    return supervisor.go(args.resume)


def bounds_of(config: PretrainConfig) -> Bounds:
    """Numbers of ranks that a config allows, with the micro-batch that its run has chosen."""
    train = config.train
    rows = train.micro_batch or chosen_rows(storage.join(config.run.dir, config.run.name))
    return Bounds(train.global_batch // rows, train.min_ranks or train.ranks, train.ranks)


def chosen_rows(folder: str) -> int:
    """Rows of a micro-batch that a run began with; 1 where it has not begun, or cannot be read."""
    unread = OSError, Ndt3DistError, yaml.YAMLError, KeyError, TypeError, ValueError
    with contextlib.suppress(*unread):  # the run itself then refuses ranks that cannot share
        kept = plain_yaml.load(storage.read_text(storage.join(folder, CONFIG))) or {}
        return int(kept["train"]["micro_batch"]) or 1
    return 1


def refuse_hosts(hosts: list[Host], bounds: Bounds, hostfile: str) -> None:
    """Raises BadInput where no number of ranks that is allowed is to be had with these hosts."""
    if not choose(hosts, bounds):
        raise BadInput(
            f"{hostfile}: {len(hosts)} hosts of {num_ranks(hosts)} slots, of which no number gives "
            f"{bounds}; see train.ranks, train.min_ranks and train.global_batch"
        )


if __name__ == "__main__":
    log.run_program(main)
