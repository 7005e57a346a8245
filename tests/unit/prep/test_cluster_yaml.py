"""`data_prep/cluster.yaml` is what Ray's cluster launcher takes, and lets nobody in."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def config() -> dict:
    """The file with Ray's defaults filled in, after Ray's own schema and checks."""
    util = pytest.importorskip("ray.autoscaler._private.util")
    pytest.importorskip("jsonschema")
    found = yaml.safe_load((ROOT / "data_prep" / "cluster.yaml").read_text())
    found = util.prepare_config(found)
    util.validate_config(found)
    return found


def test_workers_come_and_go(config):
    assert config["idle_timeout_minutes"] == 5
    worker = config["available_node_types"]["worker"]
    assert (worker["min_workers"], worker["max_workers"]) == (0, 16)
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}


def test_versions_are_the_locked_ones(config):
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    (ray,) = [line.removeprefix("ray==") for line in lock if line.startswith("ray==")]
    assert config["docker"]["image"] == f"rayproject/ray:{ray}-py311-cpu"


def test_nobody_gets_in_without_ssh_and_the_token(config):
    head, worker = (" ".join(config[f"{kind}_start_ray_commands"]) for kind in ("head", "worker"))
    assert "--dashboard-host=127.0.0.1" in head
    for command in (head, worker):
        assert "RAY_AUTH_MODE=token ray start" in command.replace("RAY_USAGE_STATS_ENABLED=0 ", "")
    assert "/home/ray/.ray/auth_token" in config["file_mounts"]
    (opened,) = config["provider"]["security_group"]["IpPermissions"]
    assert opened["FromPort"] == opened["ToPort"] == 22
    assert "0.0.0.0/0" not in str(opened)
    for kind in config["available_node_types"].values():
        assert "Arn" in kind["node_config"]["IamInstanceProfile"]
        assert kind["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}
    assert "aws_secret" not in str(config).lower()
