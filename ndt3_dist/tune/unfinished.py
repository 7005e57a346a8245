"""A fine-tune that is under way: its folder, and where it stands; one that was killed goes on.

What a step draws follows from the seed and its number, so the numbers are those of a run that was
left alone.
"""

import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ndt3_dist import log, storage
from ndt3_dist.errors import CheckpointCorrupt, ResumeMismatch
from ndt3_dist.train.plain import PlainOptimizer

EVERY_S = 300.0
"""Least time between two savings: what a kill may cost. Shorter fine-tunes save nothing."""


class Unfinished:
    """The folder of a fine-tune, held by one process; use it in a `with` block.

    Attributes:
        stage: fit, or refit behind it.
        fitted: What the first stage came to; {} while it is under way.
    """

    def __init__(self, run: Path, told: dict):
        """
        Args:
            run: Its folder: new, or that of the same fine-tune, which did not end.
            told: All that its numbers follow from.
        Raises:
            ResumeMismatch: There is another one, one that ended, or one that is at work.
        """
        self.config, self.file = run / "config.json", run / "state.safetensors"
        self.run, self.stage, self.fitted = run, "fit", {}
        there = {path.name for path in run.iterdir()} - {".lock"} if run.exists() else set()
        if there and (self.config.name not in there or "export" in there):
            raise ResumeMismatch(f"{run}: the run exists; choose another run.name or remove it")
        if there:
            theirs, told = storage.read_json(self.config), json.loads(json.dumps(told))
            theirs = theirs if isinstance(theirs, dict) else {}
            if changed := [k for k in {**theirs, **told} if theirs.get(k) != told.get(k)]:
                raise ResumeMismatch(
                    f"{run}: a run that did not end was begun with other settings "
                    f"({', '.join(changed)} differ); choose another run.name or remove it"
                )
        run.mkdir(parents=True, exist_ok=True)
        self.lock = (run / ".lock").open("a")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (run / "export").exists():  # it has ended since the look above
                raise ResumeMismatch(f"{run}: the run exists; choose another run.name or remove it")
            storage.write_json(self.config, told)
            self.saved: dict[str, Any] = self._read() if self.file.exists() else {}
        except BlockingIOError as e:
            self.lock.close()
            raise ResumeMismatch(f"{run}: another process is at work on it") from e
        except BaseException:
            self.lock.close()
            raise
        if self.saved:
            self.stage, self.fitted = self.saved["stage"], self.saved["fitted"]
        if there:
            log.say(f"{run}: did not end; goes on behind step {self.saved.get('step', 0)}")
        self.last = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.lock.close()

    def _read(self) -> dict:
        try:
            with safe_open(str(self.file), "pt") as file:
                saved = json.loads(file.metadata()["progress"])
                return {**saved, "tensors": {k: file.get_tensor(k) for k in file.keys()}}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as e:
            raise CheckpointCorrupt(
                f"{self.file}: cannot be read ({e}); remove it, and the run begins again"
            ) from e

    def resume(self, optimizer: PlainOptimizer, best: dict) -> tuple[int, dict, dict, int]:
        """Take up this stage where it was saved.

        Returns:
            Steps that are made, the best score and its fp32 weights, scores since then; of a stage
            that begins 0, `best`, the weights as they are, 0.
        """
        weights, saved = optimizer.snapshot(), self.saved
        self.saved = {}
        if not saved:
            return 0, best, weights, 0
        tensors = saved["tensors"]
        weights |= {k[5:]: t for k, t in tensors.items() if k.startswith("best.")}
        optimizer.load_state(tensors)
        best = {**best, **saved["best"]}
        return saved["step"], best, weights, saved.get("without_gain", 0)

    def save(
        self, optimizer: PlainOptimizer, step: int, best: dict, weights: dict, without_gain: int
    ) -> None:
        """Save what `resume` takes up, where it was not for `EVERY_S`."""
        if time.monotonic() - self.last < EVERY_S:
            return
        tensors = optimizer.state()
        trained = [name[7:] for name in tensors if name.startswith("weight.")]
        told = {"stage": self.stage, "fitted": self.fitted, "step": step, "best": {}}
        if best["step"]:
            tensors |= {f"best.{name}": weights[name] for name in trained}
            told |= {"best": best, "without_gain": without_gain}
        with storage.atomic_file(self.file) as file:
            save_file(tensors, file.name, {"progress": json.dumps(told)})
        self.last = time.monotonic()

    def refit(self, fitted: dict) -> None:
        """The first stage is over, and came to `fitted`."""
        self.stage, self.fitted = "refit", fitted

    def ended(self) -> None:
        """The export is written: nothing is to be taken up any more."""
        self.file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def lines(self, made: int) -> Iterator[Callable[[dict], None]]:
        """Writes the metrics of a step of this stage, behind those of the steps that are made."""
        path = self.run / ("metrics.jsonl" if self.stage == "fit" else "refit.jsonl")
        kept = path.read_text().splitlines(keepends=True)[:made] if made else []
        path.write_text("".join(kept))
        with path.open("a", buffering=1) as file:
            yield lambda values: print(json.dumps(values), file=file)
