"""Which recordings the weights of a run or an export come from, stage of training by stage.

A stage is a corpus (its fingerprint), the split of it that was fitted, the steps that were made,
and its sessions, each with the hash of its recording; `sessions` is null where nobody wrote them
down, as in exports of earlier versions and of other programs. A run keeps its stages in
lineage.json with the step that each began at, those before it in `before`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndt3_dist import storage
from ndt3_dist.errors import CheckpointCorrupt

if TYPE_CHECKING:
    from ndt3_dist.shards.manifest import Manifest, Session

FILE = "lineage.json"


def stage(manifest: "Manifest", sessions: "list[Session]", split: str, **step: int) -> dict:
    """A stage over some sessions of a corpus.

    Args:
        split: That was fitted.
        step: `steps`, or while a run goes on `from_step`.
    """
    hashes = {s.id: s.source_sha256 for s in sessions}
    return {"corpus": manifest.fingerprint, "split": split, **step, "sessions": hashes}


def unknown_stage(corpus: str, **step: int) -> dict:
    """A stage whose sessions nobody wrote down."""
    return {"corpus": corpus, "split": "train", **step, "sessions": None}


def of_export(config: dict) -> list[dict]:
    """Stages of an export's config.json, oldest first.

    Raises:
        CheckpointCorrupt: They are not as they were written.
    """
    trained = config["trained"]
    if "lineage" not in trained:
        return [unknown_stage(trained.get("corpus", "unknown"), steps=trained.get("step", 0))]
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
        sessions = stage["sessions"]
        saw = (
            "nobody wrote down which sessions" if sessions is None else f"{len(sessions)} sessions"
        )
        found.append(
            f"{number}. {stage['steps']} steps on split {stage['split']} of corpus "
            f"`{str(stage['corpus'])[:16]}`: {saw}"
        )
    return found


def _is_stage(value: Any) -> bool:
    if not isinstance(value, dict) or {"corpus", "split", "steps", "sessions"} - {*value}:
        return False
    return isinstance(value["sessions"], dict | None)


def begin(run: str | Path, now: dict, before: list[dict], was: str) -> None:
    """Write down the stage that a start of a run begins, unless it goes on with the last one.

    Args:
        now: The stage, with `from_step`.
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
    if not stages or {**stages[-1], "from_step": step} != now:
        stages.append(now)
    storage.write_json(path, {**kept, "stages": stages})


def at_step(run: str | Path, step: int) -> list[dict] | None:
    """Stages behind a step of a run, oldest first; None where it keeps none."""
    path = storage.join(run, FILE)
    if not storage.exists(path):
        return None
    kept = storage.read_json(path)
    stages = [s for s in kept["stages"] if s["from_step"] < step]
    ends = [s["from_step"] for s in stages[1:]] + [step]
    found = list(kept["before"])
    for one, end in zip(stages, ends, strict=True):
        steps = {"steps": end - one["from_step"]}
        found.append({k: v for k, v in {**one, **steps}.items() if k != "from_step"})
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
