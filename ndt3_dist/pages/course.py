"""The lines of a run's metrics.jsonl as curves and sums, by keys that nobody needs to know."""

import math

import numpy as np

from ndt3_dist.pages.words import Name, score


class Course:
    """How a run went.

    Attributes:
        lines: Of metrics.jsonl, at least one.
        last: The last of them.
        ends: First and last step.
        passes: Over the data that its steps have seen; 0 where they draw at random.
    """

    def __init__(self, lines: list[dict]):
        self.lines, self.last = lines, lines[-1]
        self.ends = float(lines[0]["step"]), float(lines[-1]["step"])
        epochs = [line.get("epochs", math.nan) for line in lines]
        at_random = all(e == line.get("position") for e, line in zip(epochs, lines, strict=True))
        # A line has the passes before its step.
        last_step = epochs[-1] - epochs[-2] if len(epochs) > 1 else 0.0
        seen = epochs[-1] + last_step
        self.passes = seen if math.isfinite(seen) and not at_random else 0.0

    def keys(self, start: str) -> list[str]:
        """Those of all windows together that begin so, in the order in which they came."""
        known = dict.fromkeys(key for line in self.lines for key in line)
        return [key for key in known if key.startswith(start) and "/" not in key]

    def of(self, key: str, known: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values, both (steps,), NaN where a step has none; or those `known` alone."""
        values = np.array([line.get(key, math.nan) for line in self.lines], float)
        steps = np.array([line["step"] for line in self.lines], float)
        held = np.isfinite(values) if known else np.ones(len(values), bool)
        return steps[held], values[held]

    def scores(self) -> list[str]:
        """Keys of validation that are no loss and no time, the headline of each metric first."""
        return [k for k in self.keys("val_") if k != "val_s" and not k.startswith("val_loss")]

    def validated(self, metric: str) -> tuple[str, float, float, int] | None:
        """What validation comes to: key, last value, best value and its step.

        Args:
            metric: By which a run is validated. A loss says little, so that a score is taken where
                there is one, an R2 at best.
        """
        scores = self.scores()
        by_r2 = [key for key in scores if "r2" in key.split("_")]
        chosen = [metric] if metric in scores else []
        for key in [*chosen, *by_r2, *scores, "val_loss"]:
            steps, values = self.of(key, known=True)
            if len(values):
                best = int(values.argmin() if key.startswith("val_loss") else values.argmax())
                return key, float(values[-1]), float(values[best]), int(steps[best])
        return None

    def loss_ends(self) -> tuple[float, float]:
        """Loss of the first and of the last steps: medians of a twentieth of them."""
        values = self.of("loss", known=True)[1]
        if not len(values):
            return math.nan, math.nan
        few = max(1, len(values) // 20)
        return float(np.median(values[:few])), float(np.median(values[-few:]))

    def a_pass(self, key: str) -> float:
        """What all steps together come to, in one pass; 0 where that is not known."""
        total = float(np.nansum(self.of(key)[1]))
        return total / self.passes if self.passes else 0.0

    def facts(self) -> dict[str, object]:
        """Numbers of the whole run, under keys that `words.told` knows the units of."""
        seconds, waited, tokens = (
            float(np.nansum(self.of(key)[1])) for key in ("step_s", "wait_s", "tokens")
        )
        found: dict[str, object] = {"steps": int(self.last["step"])}
        if self.passes:
            found["passes"] = self.passes
        found |= {"tokens": round(tokens), "step_s": seconds}
        if seconds:
            found |= {"tokens_per_s": tokens / seconds, "waiting_for_data_share": waited / seconds}
        for key in ("memory_gb", "mfu"):
            values = self.of(key, known=True)[1]
            if len(values):
                found[key] = float(values.max() if key == "memory_gb" else np.median(values))
        lost = sum(not math.isfinite(line.get("loss", 0.0)) for line in self.lines)
        return {**found, "steps_without_a_loss": lost} if lost else found

    def by_dataset(self, start: str) -> list[dict]:
        """The last value of each key of one dataset's sessions; none where there is one dataset."""
        found: dict[str, dict[str, float]] = {}
        for line in self.lines:
            for key, value in line.items():
                what, _, dataset = key.partition("/")
                if dataset and what.startswith(start):
                    found.setdefault(dataset, {})[what] = value
        if len(found) < 2:
            return []
        keys = list(dict.fromkeys(key for values in found.values() for key in values))
        return [
            {
                "dataset": Name(name),
                **{k.removeprefix("val_"): score(values.get(k)) for k in keys},
            }
            for name, values in sorted(found.items())
        ]
