"""Which recordings the weights of a run or an export come from, stage of training by stage.

A stage is a corpus (its fingerprint), the split of it that was fitted, the steps that were made,
the passes over it where they are known (`epochs`), and its sessions, each with the hash of its
recording; `sessions` is null where nobody wrote them down, as in exports of earlier versions and of
other programs. A run keeps its stages in lineage.json with the step and the passes that each began
at, those before it in `before`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndt3_dist import storage
from ndt3_dist.errors import CheckpointCorrupt

if TYPE_CHECKING:
    from ndt3_dist.shards.manifest import Manifest, Session

FILE = "lineage.json"
BEGAN = ("from_step", "from_epochs")
"""Keys of a stage of a run that goes on: where it began."""


def stage(manifest: "Manifest", sessions: "list[Session]", split: str, **step: float) -> dict:
    """A stage over some sessions of a corpus.

    Args:
        split: That was fitted.
        step: `steps`, or while a run goes on `from_step` and `from_epochs`; `replayed` where they
            were a share of the windows beside those of the next stage.
    """
    hashes = {s.id: s.source_sha256 for s in sessions}
    return {"corpus": manifest.fingerprint, "split": split, **step, "sessions": hashes}


def unknown_stage(corpus: str, **step: float) -> dict:
    """A stage whose sessions nobody wrote down."""
    return {"corpus": corpus, "split": "train", **step, "sessions": None}


def of_export(config: dict) -> list[dict]:
    """Stages of an export's config.json, oldest first.

    Raises:
        CheckpointCorrupt: They are not as they were written.
    """
    trained = config["trained"]
    if "lineage" not in trained:
        passes = {"epochs": trained["epochs"]} if trained.get("epochs") else {}
        steps = trained.get("step", 0)
        return [unknown_stage(trained.get("corpus", "unknown"), steps=steps, **passes)]
    stages = trained["lineage"]
    if not isinstance(stages, list) or not all(map(_is_stage, stages)):
        raise CheckpointCorrupt(
            "config.json of an export: trained.lineage is no list of stages; export again"
        )
    return [*stages]


def lines(stages: list[dict]) -> list[str]:
    """What a model card says of stages, a line each."""
    found = []
    for number, stage in enumerate(stages, 1):
        sessions, saw = stage["sessions"], "nobody wrote down which sessions"
        if sessions is not None:
            saw = f"{len(sessions)} session{'s' * (len(sessions) != 1)}"
        passes = f" ({stage['epochs']:.2f} passes)" if "epochs" in stage else ""
        if "replayed" in stage:
            passes = f", {stage['replayed']:.0%} of their windows replayed"
        found.append(
            f"{number}. {stage['steps']} steps{passes} on split {stage['split']} of corpus "
            f"`{stage['corpus'][:16]}`: {saw}"
        )
    return found


def union(chains: list[list[dict]]) -> list[dict]:
    """Stages of weights that were put together: each that any of them has, as often as it has."""
    found: list[dict] = []
    for chain in chains:
        known = [*found]
        for stage in chain:
            if stage in known:
                known.remove(stage)
            else:
                found.append(stage)
    return found


def _is_stage(value: Any) -> bool:
    if not isinstance(value, dict) or {"corpus", "split", "steps", "sessions"} - {*value}:
        return False
    sessions = value["sessions"]
    hashes = sessions.values() if isinstance(sessions, dict) else ()
    return (
        isinstance(sessions, dict | None)
        and all(isinstance(text, str) for text in (value["corpus"], value["split"], *hashes))
        and isinstance(value["steps"], int)
        and isinstance(value.get("epochs", 0), int | float)
        and isinstance(value.get("replayed", 0), int | float)
    )


def begin(run: str | Path, now: dict, before: list[dict], was: str) -> None:
    """Write down the stage that a start of a run begins, unless it goes on with the last one.

    Args:
        now: The stage, with `from_step` and, where they are known, `from_epochs`.
        before: Stages of the export that a new run starts from.
        was: Fingerprint of the corpus before `from_step`, of a run that has no lineage.json.
    """
    path, step = storage.join(run, FILE), now["from_step"]
    kept: dict[str, Any] = {"before": before, "stages": []}
    if step and storage.exists(path):
        kept = storage.read_json(path)
    elif step:
        kept["stages"] = [unknown_stage(was, from_step=0)]
    stages = [s for s in kept["stages"] if s["from_step"] < step]  # later ones are run again
    if not stages or without_begin(stages[-1]) != without_begin(now):
        stages.append(now)
    storage.write_json(path, {**kept, "stages": stages})


def without_begin(stage: dict) -> dict:
    """What a stage is, wherever in a run it began."""
    return {k: v for k, v in stage.items() if k not in BEGAN}


def at_step(run: str | Path, step: int, epochs: float | None = None) -> list[dict] | None:
    """Stages behind a step of a run, oldest first; None where it keeps none.

    Args:
        epochs: Passes before the step, as its checkpoint has them.
    """
    path = storage.join(run, FILE)
    if not storage.exists(path):
        return None
    kept = storage.read_json(path)
    stages = [s for s in kept["stages"] if s["from_step"] < step]
    ends = [*stages[1:], {"from_step": step, "from_epochs": epochs}]
    found = list(kept["before"])
    for one, end in zip(stages, ends, strict=True):
        made: dict[str, float] = {"steps": end["from_step"] - one["from_step"]}
        first, last = one.get("from_epochs"), end.get("from_epochs")
        if first is not None and last is not None:
            made["epochs"] = last - first
        found.append({**without_begin(one), **made})
    return found


def seen(stages: list[dict], manifest: "Manifest", session: "Session", split: str) -> list[dict]:
    """Stages that may have fitted what a split of a session holds.

    Splits of one corpus share no bin. Those of two may: there it counts that the recording was
    in both.
    """
    return [
        s
        for s in stages
        if session.source_sha256 in (s["sessions"] or {}).values()
        and (s["corpus"] != manifest.fingerprint or s["split"] == split)
    ]
