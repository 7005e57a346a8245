"""What all unit tests share."""

import pytest

from ndt3_dist.data import stream


class _Here:
    """Stands in for `processes.Processes`: builds in the thread that asks."""

    def __init__(self, builder, count):
        self.build = builder.build

    def close(self):
        pass


@pytest.fixture(autouse=True)
def build_here(monkeypatch):
    """Streams of several workers start no processes, of which many tests would make hundreds."""
    monkeypatch.setattr(stream, "Processes", _Here)
