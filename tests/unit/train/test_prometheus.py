"""Metrics for Prometheus: what a scrape gets, by its own parser."""

import math
import socket
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from s3_server import free_port

from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.run_metrics import METRICS, Prometheus


def served(*overrides) -> Prometheus:
    return Prometheus(load_config(PretrainConfig, PROJECT / "configs" / "demo.yaml", overrides))


def scrape(port: int):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return list(text_string_to_metric_families(answer.read().decode()))


def test_a_scrape_has_the_last_metrics_by_their_keys_and_datasets_as_labels():
    port = free_port()
    metrics = served(f"log.prometheus={port}", "run.name=a.b")
    try:
        assert scrape(port) == []
        metrics.write(1, {"loss": 3.0, "data_s": 0.5, "loss_spikes/x-1": 1.0})
        metrics.write(2, {"loss": 2.0, "loss_spikes/x-1": 0.5, "loss_spikes/y": float("nan")})
        found = {family.name: family for family in scrape(port)}
        with pytest.raises(OSError):
            urllib.request.urlopen(f"http://{other_address()}:{port}", timeout=10)
    finally:
        metrics.close()
    assert found["ndt3_loss"].documentation == METRICS["loss"]
    samples = [s for family in found.values() for s in family.samples]
    values = {(s.name, s.labels["run"], s.labels["dataset"]): s.value for s in samples}
    assert math.isnan(values.pop(("ndt3_loss_spikes", "a.b", "y")))
    assert values == {
        ("ndt3_step", "a.b", ""): 2,
        ("ndt3_loss", "a.b", ""): 2,
        ("ndt3_data_s", "a.b", ""): 0.5,
        ("ndt3_loss_spikes", "a.b", "x-1"): 0.5,
    }
    with pytest.raises(OSError):
        scrape(port)


def other_address() -> str:
    """One of this machine that is not the loopback's, or of the loopback's others."""
    found = {a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    return min(found - {"127.0.0.1"}, default="127.0.0.2")


def test_a_port_that_is_taken_is_said_and_stops_nothing(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        metrics = served(f"log.prometheus={port}")
    said = f"warning: log.prometheus: 127.0.0.1:{port} cannot be listened at"
    assert said in capsys.readouterr().err
    metrics.write(1, {"loss": 1.0})
    metrics.close()


def test_it_is_off_unless_a_port_is_named():
    metrics = served()
    metrics.write(1, {"loss": 1.0})
    assert metrics.server is None
    metrics.close()
