"""Which hosts a run is started on."""

import pytest

from ndt3_dist.cluster.launch.hostfile import Bounds, Host, choose, read_hostfile
from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.errors import BadInput
from ndt3_dist.programs.cluster.launch import bounds_of
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.settings import with_micro_batch, write_config


def test_a_hostfile_is_read_and_other_lines_are_named(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("# GPUs\nnode-1 slots=8\n\n10.0.0.2   slots=4  # half\n")
    assert read_hostfile(file) == [Host("node-1", 8), Host("10.0.0.2", 4)]
    for text, said in (
        ("a slots=8\nb\n", "line 2: 'b'; expected `HOST slots=N`"),
        ("a slots=0\n", "line 1: 'a slots=0'"),
        ("-oProxyCommand=x slots=1\n", "line 1"),
        ("a slots=1\na slots=1\n", "line 2: a stands there twice"),
        ("\n", "names no host"),
    ):
        file.write_text(text)
        with pytest.raises(BadInput, match=said):
            read_hostfile(file)
    with pytest.raises(BadInput, match="no such file"):
        read_hostfile(tmp_path / "absent")


def test_as_many_hosts_as_share_a_step_evenly_and_keep_the_bounds():
    hosts = [Host(name, 2) for name in "abcd"]

    def number(answering, *bounds):
        return len(choose(hosts[:answering], Bounds(*bounds)))

    assert [number(n, 8) for n in range(5)] == [0, 1, 2, 2, 4]
    assert [number(n, 24) for n in range(5)] == [0, 1, 2, 3, 4]
    assert [number(n, 8, 4) for n in range(5)] == [0, 0, 2, 2, 4]
    assert [number(n, 8, 2, 4) for n in range(5)] == [0, 1, 2, 2, 2]
    assert [number(n, 8, 8, 8) for n in range(5)] == [0, 0, 0, 0, 4]
    assert choose([hosts[1], hosts[3]], Bounds(8)) == [hosts[1], hosts[3]]


def test_ranks_share_the_micro_batches_that_a_run_has_chosen(tmp_path):
    """Where `train.micro_batch` is 0 it is known with the run's first start."""
    changes = [f"run.dir={tmp_path}", "run.name=r", "train.micro_batch=0", "train.global_batch=16"]
    config = load_config(PretrainConfig, PROJECT / "configs" / "demo.yaml", changes)
    hosts = [Host(name, 1) for name in "abcd"]
    assert len(choose(hosts, bounds_of(config))) == 4
    write_config(with_micro_batch(config, 8), str(tmp_path / "r"))
    assert len(choose(hosts, bounds_of(config))) == 2
    (tmp_path / "r" / "config.yaml").write_text("train: {micro_batch: [}")
    assert len(choose(hosts, bounds_of(config))) == 4
