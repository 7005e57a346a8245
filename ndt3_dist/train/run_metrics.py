"""What a training run reports: one set of names for the console, metrics.jsonl and W&B."""

import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ndt3_dist import log, storage
from ndt3_dist.append_file import AppendFile
from ndt3_dist.engines.phases import PHASES
from ndt3_dist.errors import Ndt3DistError
from ndt3_dist.model.contract import Target
from ndt3_dist.train.pretrain_config import PretrainConfig

FILE = "metrics.jsonl"
METRICS = {
    "loss": "sum of the losses of all targets",
    "grad_norm": "global gradient norm before clipping",
    "lr": "learning rate of the step",
    "epochs": "samples seen over the chosen samples of the corpus, before the step",
    "position": "global number of the step's first row",
    "samples": "windows in the step",
    "tokens": "tokens in the step",
    "step_s": "seconds from the end of the last step to the end of this one",
    "wait_s": "of these, seconds that rank 0 waited for the step of all ranks to be built",
    "tflops": "10^12 operations that the model needs (model/flops.py) a second and rank",
    "mfu": "these over the device's peak in dense bf16; where that is known",
    "hfu": "the same, with what is computed again",
    "memory_gb": "most that rank 0 has allocated on its GPU; on a CPU the most that it held",
    "val_loss": "losses by their weights in the config, of held-out data, dropout off",
    "val_s": "seconds that the validation took",
    **{f"{p}_s": f"seconds of a step at {p}, of the rank with most, over a window" for p in PHASES},
    **{f"{p}_rank": "that rank" for p in PHASES},
}
"""Keys of a line of metrics.jsonl besides `step`, with their meaning. There are also `loss_TARGET`
and `val_loss_TARGET` of each target of the model, and `val_SCORE` of each score of its metric
(`evaluate.metrics`), the mean of sessions. `KEY/DATASET` is the same of one dataset's sessions.
Phases (`engines/phases.py`) are in the first line after a window of `log.every_steps`."""


class MetricsFile:
    """RUN/metrics.jsonl: one line a step."""

    def __init__(self, run: str | Path, restored_step: int, targets: Sequence[Target]):
        path = storage.join(run, FILE)
        self.known = {*METRICS, *(f"loss_{target.name}" for target in targets)}
        self.lines = [m for m in read_metrics(run) if m["step"] <= restored_step]
        text = storage.read_text(path).splitlines(keepends=True)
        self.file = AppendFile(path, "".join(text[: len(self.lines)]))  # later steps are run again

    def write(self, step: int, values: Mapping[str, float]) -> None:
        unknown = {key.split("/")[0] for key in values if not key.startswith("val_")} - self.known
        assert not unknown, f"metrics without a meaning: {unknown}"
        line = {k: v if math.isfinite(v) else None for k, v in values.items()}  # JSON has no NaN
        self.file.add(json.dumps({"step": step, **line}) + "\n")

    def flush(self) -> None:
        """Return when all lines are there. Raises StoreFailed."""
        self.file.flush()

    def close(self) -> None:
        try:
            self.file.close()
        except (OSError, Ndt3DistError) as e:
            log.warn(f"the last lines of metrics.jsonl are lost: {e}")


def read_metrics(run: str | Path) -> list[dict]:
    """All whole lines of a run's metrics.jsonl; the last may have been cut by a kill."""
    found = []
    for line in storage.read_text(storage.join(run, FILE)).splitlines():
        try:
            values = json.loads(line)
            found.append({k: math.nan if v is None else v for k, v in values.items()})
        except ValueError:
            break
    return found


class Wandb:
    """A W&B run that goes on where it stopped; nothing where it is disabled."""

    def __init__(self, config: PretrainConfig, run: str):
        self.run = None
        if config.log.wandb == "disabled":
            return
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            import wandb
        except ImportError:
            log.warn("log.wandb is on but wandb is not installed: `pip install ndt3_dist[wandb]`")
            return
        marker, folder = storage.join(run, "wandb_id"), Path(run)
        run_id = storage.read_text(marker).strip() or secrets.token_hex(4)
        storage.write_bytes(marker, f"{run_id}\n".encode())
        if storage.is_remote(run):  # its files need a disk
            folder = Path(os.environ.get("WANDB_DIR") or Path.cwd() / "runs" / config.run.name)
            folder.mkdir(parents=True, exist_ok=True)
        try:
            self.run = wandb.init(
                project=config.log.wandb_project,
                name=config.run.name,
                id=run_id,
                resume="allow" if config.log.wandb == "online" else None,
                dir=str(folder),
                mode=config.log.wandb,
                config=config.model_dump(mode="json"),
            )
        except Exception as e:
            log.warn(f"W&B could not start ({e}); metrics go to metrics.jsonl alone")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._try("log", lambda run: run.log(dict(values), step=step))

    def close(self) -> None:
        self._try("finish", lambda run: run.finish())

    def _try(self, what: str, call: Callable) -> None:
        """W&B may go down at any time; it never stops a run."""
        if not self.run:
            return
        try:
            call(self.run)
        except Exception as e:
            self.run = None
            log.warn(f"W&B could not {what} ({e}); metrics go to metrics.jsonl alone from here on")


class Prometheus:
    """Serves the last metrics as gauges `ndt3_KEY{run="NAME"}`; nothing where it is off.

    What follows a `/` in a key, a dataset, is the label `dataset`. A key that is not in every step
    keeps its last value.
    """

    def __init__(self, config: PretrainConfig):
        self.last: dict[str, float] = {}
        self.name, self.server = config.run.name, None
        port, address = config.log.prometheus, config.log.prometheus_address
        if not port:
            return
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError:
            log.warn("log.prometheus needs prometheus_client: `pip install ndt3_dist[prometheus]`")
            return
        registry = CollectorRegistry()
        registry.register(self)  # pyright: ignore[reportArgumentType]
        try:
            self.server, _ = start_http_server(port, address, registry)
        except OSError as e:
            log.warn(f"log.prometheus: {address}:{port} cannot be listened at ({e}); nothing is")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.last = {**self.last, "step": step, **values}

    def collect(self) -> Iterator[Any]:
        """What is asked for, for the library; from its own thread."""
        from prometheus_client.core import GaugeMetricFamily

        families: dict[str, Any] = {}
        for key, value in self.last.items():
            name, _, dataset = key.partition("/")
            meaning = METRICS.get(name, "see metrics.jsonl")
            labels = {"run": self.name, "dataset": dataset}
            family = families.setdefault(
                name, GaugeMetricFamily(f"ndt3_{name}", meaning, labels=list(labels))
            )
            family.add_metric(list(labels.values()), value)
        yield from families.values()

    def close(self) -> None:
        if self.server:
            self.server.shutdown()
            self.server.server_close()


def validation_line(step: int, values: Mapping[str, float], best_step: int) -> str:
    """What a validation found."""
    best = "the best so far" if best_step == step else f"best: step {best_step}"
    scores = [
        f"{key.removeprefix('val_').replace('_', ' ')} {value:.3f}"
        for key, value in values.items()
        if key.startswith("val_") and "/" not in key and not key.startswith(("val_loss", "val_s"))
    ]
    loss = f"loss {values['val_loss']:.4f}  " if "val_loss" in values else ""
    return f"step {step} validated in {values['val_s']:.1f} s: {loss}{'  '.join(scores)}  ({best})"


def console_line(
    step: int, total: int | None, values: Mapping[str, float], seconds_left: float
) -> str:
    """The line of one log window; `total` and `seconds_left` may be unknown (None, NaN)."""
    rate = values["tokens"] / max(values["step_s"], 1e-9)
    eta = "?"
    if math.isfinite(seconds_left):
        hours, rest = divmod(int(seconds_left), 3600)
        eta = f"{hours}h{rest // 60:02d}m" if hours else f"{rest // 60}m{rest % 60:02d}s"
    wait = values["wait_s"] / max(values["step_s"], 1e-9)
    mfu = f"mfu {values['mfu']:.1%}  " if "mfu" in values else ""
    return (
        f"step {step}/{total or '?'}  loss {values['loss']:.4f}  |g| {values['grad_norm']:.2f}  "
        f"{rate / 1000:.1f}k tok/s  {mfu}wait {wait:.1%}  mem {values['memory_gb']:.1f}G  eta {eta}"
    )
