"""Any number of ranks and threads, from any step on: the same samples, bytes, number of steps."""

import numpy as np
import pytest
from small_corpus import make_recording, write_corpus
from streams import digest, make_streams, walk

from ndt3_dist.data import mixture
from ndt3_dist.data.order import generator

STEPS = 6
CASES = 25
"""Of each of the 20 corpora."""


@pytest.mark.parametrize("number", range(20))
def test_any_number_of_ranks_and_threads_can_go_on_at_any_step(
    tmp_path, tiny_model, number, monkeypatch
):
    monkeypatch.setattr(mixture, "PERIOD", 300)  # quicker, and passed within a case
    draw = generator("any world", number)
    recordings = [
        make_recording(
            i,
            float(draw.uniform(3, 30)),
            draw.integers(1, 80, int(draw.integers(1, 3))).tolist(),
            int(draw.integers(1, 4)),
        )
        for i in range(int(draw.integers(1, 6)))
    ]
    shards = int(draw.integers(1, 8))
    first = recordings[0].session
    patterns = ["*"] if len(recordings) == 1 else [f"*-{first}", "*"]
    write_corpus(tmp_path / "c", recordings, shards=shards)
    for _ in range(CASES):
        weights = draw.uniform(0.1, 3, 2).tolist() if draw.random() < 0.5 else []
        world, micro = int(draw.choice([1, 2, 4, 8])), int(draw.integers(1, 3))
        options = {
            "batch": (world * micro * int(draw.integers(1, 3)), micro),
            "row_tokens": int(draw.choice([800, 1024, 4096])),
            "block_samples": int(draw.choice([1, 8, 50, 8192])),
            "lanes": int(draw.choice([1, 2, 5, 64])),
            # Half of a source's only window would be none.
            "scale_ratio": 1.0 if weights else float(draw.choice([1.0, 1.0, 0.5])),
            "covariate_mask_rate": 0.5,
            "mixture": [
                {"sessions": [pattern], "weight": weight}
                for pattern, weight in zip(patterns, weights, strict=False)
            ],
        }
        alone = walk(make_streams(tmp_path / "c", tiny_model, workers=0, **options), STEPS)
        step = int(draw.integers(-1, STEPS - 1))
        place = alone[step][0].after if step >= 0 else None
        workers = int(draw.choice([0, 1, 3]))
        streams = make_streams(tmp_path / "c", tiny_model, world, workers=workers, **options)
        later = walk(streams, STEPS - step - 1, place)
        assert digest(later) == digest(alone[step + 1 :])
        per_rank = {len(rank.batches) for ranks in later for rank in ranks}
        assert per_rank == {options["batch"][0] // micro // world}  # none starves
        samples = np.concatenate([row for step in alone for *_, row in step[0].rows])
        once = samples[: streams[0].plan.sources.num_samples]
        # An epoch before anything comes again, but where it is to come more often.
        assert options["mixture"] or len(set(once.tolist())) == len(once)
