"""Serving takes no more memory with more bins: with a real decoder, and for all around it."""

import gc

import numpy as np
import torch
from live_parts import CHANNELS, LEAST, answers_of, serving

from ndt3_dist.evaluate.online import OnlineDecoder
from ndt3_dist.live import quiet
from ndt3_dist.live.client import Client
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokenise import Layout


def growth(work, before: int, after: int) -> tuple[int, float]:
    """Objects and resident KiB by which `work(bins)` grows behind its first bins."""
    import psutil

    process = psutil.Process()
    work(before)
    gc.collect()
    objects, resident = len(gc.get_objects()), process.memory_info().rss
    work(after)
    gc.collect()
    return len(gc.get_objects()) - objects, (process.memory_info().rss - resident) / 1024


def test_a_decoder_and_its_answers_do_not_grow():
    torch.manual_seed(0)
    model = NDT3(LEAST).eval()
    layout = Layout.from_counts([CHANNELS], 2, LEAST, "s")
    answers = answers_of(late_ms=1e9)
    answers.decoder = OnlineDecoder(model, layout, 20, True)
    counts = np.random.default_rng(0).poisson(0.4, (100, CHANNELS)).astype(np.uint8)
    number = 0

    def work(bins):
        nonlocal number
        for _ in range(bins):
            answers.take(number, counts[number % 100], answers.clock())
            number += 1 + (number % 97 == 0)  # some are lost

    objects, kib = growth(work, 500, 4000)
    assert answers.tally.filled > 30
    assert objects < 100
    assert kib < 1024


def test_a_socket_with_20000_bins_leaves_nothing_behind(tmp_path):
    counts = np.ones((50, CHANNELS), np.uint8)
    answers = answers_of(late_ms=1e9)
    try:
        quiet.settle()  # as the service runs
        with serving(f"unix:{tmp_path}/s", answers), Client(f"unix:{tmp_path}/s") as client:
            answers.decoder.observe = lambda counts: None

            def work(bins):
                for _ in range(bins // len(counts)):
                    for of_bin in counts:
                        client.send(of_bin)
                    for _ in counts:
                        client.receive()

            objects, kib = growth(work, 2000, 20_000)
    finally:
        gc.unfreeze()
        gc.enable()
    assert answers.tally.bins == 22_000
    assert objects < 100
    assert kib < 1024
