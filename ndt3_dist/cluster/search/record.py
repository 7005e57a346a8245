"""The folder of a search, and what it remembers: plain lines, each written before it counts.

search.json says what was asked, trials.jsonl what came of it, line by line as it came. A search
that was killed is what these lines say; nothing in its folder is ever unpickled.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ndt3_dist import log, storage
from ndt3_dist.append_file import AppendFile
from ndt3_dist.errors import BadInput, ResumeMismatch
from ndt3_dist.folder_lock import changed, hold, names_in

ASKED, TRIALS = "search.json", "trials.jsonl"
MAY_GROW = ("trials",)
"""Of what was asked, that which the same search may say anew."""


@dataclass
class Trial:
    """A setting and what is known of it.

    Attributes:
        number: From 0.
        settings: Values by key; of a pbt those of now.
        scores: At each step that it was looked at, of each seed.
        ended: done, stopped (it lagged behind), failed; empty while it may go on.
        error: Why it failed, in a line.
        seconds: That it ran.
        moves: Of a pbt: {"step", "from", "settings"} of each copy that it went on from.
    """

    number: int
    settings: dict[str, Any]
    scores: dict[int, list[float]] = field(default_factory=dict)
    ended: str = ""
    error: str = ""
    seconds: float = 0.0
    moves: list[dict] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The last that it was looked at."""
        return max(self.scores, default=0)

    @property
    def score(self) -> float:
        """Mean over seeds at the last step."""
        found = self.scores.get(self.step, [])
        return math.fsum(found) / len(found) if found else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation over seeds (n - 1); NaN of one."""
        found, mean = self.scores.get(self.step, []), self.score
        if len(found) < 2:
            return math.nan
        return math.sqrt(math.fsum((x - mean) ** 2 for x in found) / (len(found) - 1))


class Record:
    """Held in a `with` block by one search at a time.

    Attributes:
        out: The folder.
        trials: In order of their numbers.
    """

    def __init__(self, out: Path, asked: Mapping[str, Any]):
        """
        Args:
            out: New, or of the same search.
            asked: All that its numbers follow from.
        Raises:
            BadInput: It is no place for a search.
            ResumeMismatch: There is another search, or one that is at work.
        """
        if storage.is_remote(str(out)):
            raise BadInput(f"--out {out}: expected a folder on a disk")
        self.out, self.trials = out, []
        asked = json.loads(json.dumps(asked))
        path = out / ASKED
        there = names_in(out)
        if there and path.name not in there:
            raise ResumeMismatch(f"{out}: the folder exists; choose another --out")
        self.lock = hold(out, "search")
        try:
            self._check(path, asked)
            kept = self._read()
            storage.write_json(path, asked)
            self.file = AppendFile(str(out / TRIALS), kept)
        except BaseException:
            self.lock.close()
            raise

    def _check(self, path: Path, asked: Mapping[str, Any]) -> None:
        if not path.exists():
            return
        if differ := [k for k in changed(path, asked) if k not in MAY_GROW]:
            raise ResumeMismatch(
                f"{self.out}: a search was begun there with other settings ({', '.join(differ)} "
                "differ); choose another --out or remove it"
            )
        if asked["trials"] < (trials := storage.read_json(path)["trials"]):
            raise ResumeMismatch(
                f"{self.out}: a search of {trials} trials was begun there, and "
                f"{asked['trials']} are asked for; choose another --out"
            )

    def _read(self) -> str:
        """Take up whole lines, which it returns; the last may have been cut by a kill."""
        kept = ""
        for text in storage.read_text(self.out / TRIALS).splitlines(keepends=True):
            try:
                line = json.loads(text)
            except ValueError:
                break
            if not text.endswith("\n"):
                break
            self._take(line)
            kept += text
        if self.trials:
            over = sum(bool(t.ended) for t in self.trials)
            log.say(f"{self.out}: goes on with {len(self.trials)} trials, {over} of them over")
        return kept

    def _take(self, line: dict) -> None:
        if line["trial"] == len(self.trials):
            self.trials.append(Trial(line["trial"], line["settings"]))
            return
        trial = self.trials[line["trial"]]
        if "scores" in line:
            trial.scores[line["step"]] = line["scores"]
            trial.seconds += line["seconds"]
        elif "from" in line:
            trial.settings = line["settings"]
            trial.moves.append({k: line[k] for k in ("step", "from", "settings")})
        else:
            trial.ended, trial.error = line["ended"], line.get("error", "")

    def add(self, number: int, **what: Any) -> Trial:
        """Write a line and let it count.

        Args:
            number: Of a trial; the next one is begun by its `settings`.
            what: settings; or step, scores and seconds; or step, from and settings; or ended and
                error.
        """
        line = {"trial": number, **what}
        self.file.add(json.dumps(line) + "\n")
        self._take(json.loads(json.dumps(line)))
        return self.trials[number]

    def folder(self, number: int) -> Path:
        """Of a trial."""
        return self.out / "trials" / f"{number:04d}"

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.file.close()
        self.lock.close()
