"""A live service in a thread, with a decoder that says what it was given."""

import os
import threading
from contextlib import contextmanager

import numpy as np
import torch

from ndt3_dist.checkpoint.export import describe_export, write_export
from ndt3_dist.live.answering import Answers, Policy
from ndt3_dist.live.sockets import Server
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3

CHANNELS, DIMS = 6, 2
LEAST = ModelConfig(layers=1, dim=32, heads=1, feedforward=16, context_tokens=False)
"""What a test decodes with in a quarter of a millisecond."""


def write_least_export(folder) -> str:
    """An export of one session, `s`, in 20 ms bins with 20 of context."""
    torch.manual_seed(0)
    weights = {n: p.detach() for n, p in NDT3(LEAST).named_parameters()}
    trained = {"run": "r", "step": 1, "epochs": 0.5, "corpus": "c" * 64}
    covariates = [{"name": n, "unit": "cm/s", "scale": 5.0} for n in "xy"]
    session = {"covariates": covariates, "channels": [CHANNELS]}
    norms = {"bin_size_ms": 20.0, "window_bins": 20, "sessions": {"s": session}}
    write_export(folder, weights, describe_export(LEAST, weights, "fp32", trained), norms)
    return str(folder)


class Told:
    """Predicts the sum of a bin's counts, and how many bins it has seen since the last reset."""

    channels = CHANNELS

    def __init__(self):
        self.seen: list[list[int]] = []
        self.before_step = lambda: None

    def observe(self, counts):
        self.seen.append(counts.tolist())

    def step(self, counts):
        self.before_step()
        self.observe(counts)
        return np.array([counts.sum(), len(self.seen)], np.float32)

    def reset(self):
        self.seen.clear()


def answers_of(clock=None, bin_ms=20.0, **policy) -> Answers:
    more = {"clock": clock} if clock else {}
    return Answers(Told(), np.array([2.0, 1.0]), bin_ms, Policy(**policy), **more)


def hello(answers: Answers) -> dict:
    return {
        "session": "s",
        "channels": CHANNELS,
        "dims": DIMS,
        "names": ["x", "y"],
        "units": ["cm/s", "cm/s"],
        "bin_ms": answers.tally.bin_ms,
        "context": 5,
        "kind": "fp32",
        "late_ms": 1000 * answers.late_s,
        "fallback": answers.policy.fallback,
    }


@contextmanager
def serving(address: str, answers: Answers):
    """A server that runs until the block ends; an error of it fails the test."""
    server, over, failed = Server(address, answers, hello(answers)), threading.Event(), []

    def run():
        try:
            server.run(over.is_set)
        except BaseException as e:
            failed.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield server
    finally:
        over.set()
        os.write(server.wake, b"\0")
        thread.join(30)
        server.close()
    assert not failed, failed
    assert not thread.is_alive()
