"""Run a decoder under FALCON's own evaluator (falcon_challenge, an extra of its own).

Locally it scores the public files of phase minival; in a submission's image it writes what the
server scores.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.falcon.decoder import How
from ndt3_dist.tasks.falcon.scoring import open_decoder


def run_evaluator(
    folder: str | Path,
    data: str = "",
    phase: str = "minival",
    remote: bool = False,
    batch_size: int = 0,
    how: How | None = None,
) -> dict[str, float]:
    """Decode all files of a phase as the evaluator serves them.

    Args:
        folder: What a fit left.
        data: Folder of the files; empty = EVAL_DATA_PATH, else `data`.
        remote: On the benchmark's server, which scores later.
    Returns:
        The evaluator's scores by its names; none of a remote run.
    """
    try:
        from falcon_challenge.config import (  # pyright: ignore[reportMissingImports]
            FalconConfig,
            FalconTask,
        )
        from falcon_challenge.evaluator import (  # pyright: ignore[reportMissingImports]
            FalconEvaluator,
        )
        from falcon_challenge.interface import BCIDecoder  # pyright: ignore[reportMissingImports]
    except ImportError as e:
        raise BadInput(
            f"FALCON's evaluator cannot be imported ({e}); pip install 'ndt3_dist[falcon]', best "
            "in a venv of its own"
        ) from e
    own = open_decoder(folder, batch_size, how)

    class Served(BCIDecoder):
        """Ours, as the evaluator wants it."""

        def reset(self, dataset_tags: Sequence[Path] = ()):
            own.reset(dataset_tags)

        def predict(self, neural_observations: np.ndarray) -> np.ndarray:
            return own.predict(neural_observations)

        def observe(self, neural_observations: np.ndarray) -> None:
            own.observe(neural_observations)

        def on_done(self, dones: np.ndarray):
            return own.on_done(dones)

        def set_batch_size(self, batch_size: int) -> None:
            own.set_batch_size(batch_size)
            self.batch_size = batch_size

    name = own.task.name
    with tempfile.TemporaryDirectory() as scratch, _variables(scratch, data):
        # It reads all files before it serves one, so that workers would save no time.
        evaluator = FalconEvaluator(eval_remote=remote, split=name, dataloader_workers=0)
        decoder = Served(FalconConfig(task=getattr(FalconTask, name)), own.batch_size)
        found = evaluator.evaluate(decoder, phase=phase)
    if remote:
        return {}
    (scores,) = found["result"][0].values()
    return {key: float(value) for key, value in scores.items()}


@contextlib.contextmanager
def _variables(scratch: str, data: str) -> Iterator[None]:
    """What the evaluator is told by its environment, where nobody has told it: where data lie, and
    where it pickles predictions and truth, which it then reads again."""
    before = dict(os.environ)
    for variable in ("PREDICTION_PATH_LOCAL", "GT_PATH"):
        os.environ.setdefault(variable, f"{scratch}/{variable.lower()}.pkl")
    if data:
        os.environ["EVAL_DATA_PATH"] = str(data)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
