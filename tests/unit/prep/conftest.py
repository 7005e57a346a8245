"""Fixtures of preparation's tests."""

import nwb_files
import pytest

from ndt3_dist.prep import job


@pytest.fixture(scope="session")
def write_nwb():
    """`nwb_files.write_small_nwb`, for test files to call."""
    return nwb_files.write_small_nwb


@pytest.fixture(scope="session")
def write_session():
    """`nwb_files.write_session`, for test files to call."""
    return nwb_files.write_session


def in_process(task, arguments, shared=()):
    """What a Ray pool does, one task after the other."""
    for number, args in enumerate(arguments):
        try:
            yield number, task(*args, *shared)
        except Exception as e:
            yield number, e


@pytest.fixture
def without_ray(monkeypatch):
    """`job.prepare` in this process."""

    class Pool:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return in_process

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(job, "ray_pool", Pool)
    return in_process
