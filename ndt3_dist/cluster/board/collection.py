"""The runs of a board: a list of all that a thread keeps up to date, and those that are looked at.

A request names a run by its id alone; no part of a request becomes a path.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from ndt3_dist import log, storage
from ndt3_dist.cluster.board.find_runs import find_runs
from ndt3_dist.errors import Ndt3DistError
from ndt3_dist.pages.followed_run import FollowedRun
from ndt3_dist.pages.run_config import flat
from ndt3_dist.pages.run_events import LIVE, plain

LIVE_S, REST_S = {False: 2.0, True: 15.0}, {False: 15.0, True: 120.0}
"""Between two looks at a run that is live, and at others; on a disk and in a store."""
FIND_S = {False: 10.0, True: 60.0}
"""Between two searches for new runs."""
MOST_BYTES = 1 << 30
"""Of metrics in memory; the runs that were not looked at for longest are read again if needed."""
SORTS = {
    "newest": lambda card: -card.changed,
    "name": lambda card: card.name.lower(),
    "loss": lambda card: (card.loss != card.loss, card.loss),
    "steps": lambda card: -card.step,
}


@dataclass(frozen=True)
class Card:
    """A run as the list has it.

    Attributes:
        step, total: Behind it and to its end; None = unknown.
        loss, rate: Mean loss and tokens a second of the last lines; NaN = unknown.
        changed: When its metrics last changed, seconds since 1970.
        problem: Whether something of it cannot be read.
        text: What a filter looks in.
    """

    id: str
    name: str
    state: str
    step: int
    total: int | None
    loss: float
    rate: float
    changed: float
    problem: bool
    text: str


class Collection:
    """All runs of a board.

    Attributes:
        cards: What the list shows, by id.
        names: Of runs by path, as short as they differ.
        fault: Why new runs cannot be sought, "" = they can.
    """

    def __init__(self, places: list[str]):
        """
        Raises:
            BadInput, StoreFailed, OSError: One of the places cannot be looked at.
        """
        self.places = places
        self.is_remote = any(map(storage.is_remote, places))
        self.fault = ""
        self.cards: dict[str, Card] = {}
        self._glimpses: dict[str, FollowedRun] = {}
        self._due: dict[str, float] = {}
        self._paths: dict[str, str] = {}
        self._open: OrderedDict[str, FollowedRun] = OrderedDict()
        self._over = threading.Event()
        self._found_at = 0.0
        self.find()

    @property
    def number(self) -> int:
        return len(self._paths)

    def start(self) -> None:
        """Look at all runs, again and again, until `close`."""
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._over.set()

    def find(self) -> None:
        """Search the places for runs."""
        self._paths = {id_of(path): path for path in find_runs(self.places)}
        self._found_at = time.monotonic()
        self.names = unlike_names([*self._paths.values()])
        for gone in self._glimpses.keys() - self._paths.keys():
            self.cards.pop(gone, None)
            self._glimpses.pop(gone)
        for name, path in self._paths.items():
            run = self._glimpses.setdefault(name, FollowedRun(path))
            run.name = self.names[path]

    def listed(self, words: str = "", sort: str = "newest") -> list[Card]:
        """The runs whose text holds all the words, in order."""
        wanted = words.lower().split()
        found = [c for c in self.cards.copy().values() if all(word in c.text for word in wanted)]
        return sorted(found, key=SORTS.get(sort, SORTS["newest"]))

    def opened(self, ids: list[str]) -> list[FollowedRun]:
        """The runs of some ids to be read whole, for one thread at a time; unknown ids left out."""
        found, paths = [], self._paths
        for one in dict.fromkeys(ids):
            if one in paths:
                run = self._open.setdefault(one, FollowedRun(paths[one]))
                run.name = self.names.get(paths[one], run.name)
                self._open.move_to_end(one)
                found.append(run)
        held = sum(run.columns.num_bytes for run in self._open.values())
        while held > MOST_BYTES and len(self._open) > len(found):
            _, run = self._open.popitem(last=False)
            held -= run.columns.num_bytes
        return found

    def look(self) -> None:
        """Look at every run that is due."""
        now = time.monotonic()
        if now - self._found_at > FIND_S[self.is_remote]:
            try:
                self.find()
                self.fault = ""
            except (OSError, Ndt3DistError) as e:
                self.fault = plain(log.without_secrets(str(e)))
                self._found_at = time.monotonic()
        for name, run in [*self._glimpses.items()]:
            if self._over.is_set():
                return
            if self._due.get(name, 0.0) > now:
                continue
            changed = run.glimpse()
            if changed or name not in self.cards:
                self.cards[name] = card_of(name, run)
            pauses = LIVE_S if run.state == LIVE else REST_S
            self._due[name] = time.monotonic() + pauses[storage.is_remote(run.path)]

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.look()
            except Exception as e:  # a defect, and no reason to let the list stand still
                log.warn(f"the list of runs: {type(e).__name__}: {e}")
            self._over.wait(0.5)


def id_of(path: str) -> str:
    """A name of a path that is no path."""
    return hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:16]


def unlike_names(paths: list[str]) -> dict[str, str]:
    """Path -> as much of its end as tells it from the others."""
    parts = {path: path.rstrip("/").split("/") for path in paths}
    names = {path: part[-1] for path, part in parts.items()}
    for depth in range(2, 8):
        seen: dict[str, int] = {}
        for name in names.values():
            seen[name] = seen.get(name, 0) + 1
        twice = [path for path, name in names.items() if seen[name] > 1]
        if not twice:
            break
        for path in twice:
            names[path] = "/".join(parts[path][-depth:])
    return {path: plain(name, 200) for path, name in names.items()}


def card_of(name: str, run: FollowedRun) -> Card:
    """What the list shows of a run."""
    text = [run.name, run.state, *(f"{key}={value}" for key, value in flat(run.config))]
    return Card(
        id=name,
        name=run.name,
        state=run.state,
        step=run.step,
        total=run.total,
        loss=run.recent("loss"),
        rate=run.recent("tokens_per_s"),
        changed=run.file.seen.modified if run.file.seen else 0.0,
        problem=bool(run.problem),
        text=plain("\n".join(text).lower(), 20_000),
    )
