"""Which recordings weights come from, through resumes, other corpora and fine-tunes."""

import pytest
from small_corpus import make_recording, write_corpus

from ndt3_dist.checkpoint import lineage
from ndt3_dist.errors import CheckpointCorrupt

PARENT = [{"corpus": "p", "split": "train", "steps": 70, "sessions": {"x": "7" * 64}}]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Of two recordings, and of the first of them with one more."""
    folder = tmp_path_factory.mktemp("corpora")
    two = write_corpus(folder / "two", [make_recording(n, 10, [20]) for n in (1, 2)])
    other = write_corpus(folder / "other", [make_recording(n, 10, [20]) for n in (1, 3, 4)])
    return two, other


def start(run, manifest, step, before=(), was=""):
    now = lineage.stage(manifest, manifest.sessions, "train", from_step=step)
    lineage.begin(run, now, list(before), was)


def told(run, step):
    """Corpus and steps of each stage behind a step."""
    return [(s["corpus"], s["steps"]) for s in lineage.at_step(run, step) or ()]


def test_a_resume_goes_on_with_its_stage_or_begins_another(tmp_path, corpora):
    two, other = (m.fingerprint for m in corpora)
    assert lineage.at_step(tmp_path, 4) is None  # a run of an earlier version
    start(tmp_path, corpora[0], 0, PARENT)
    start(tmp_path, corpora[0], 8)
    assert told(tmp_path, 12) == [("p", 70), (two, 12)]
    start(tmp_path, corpora[1], 12)
    assert told(tmp_path, 20) == [("p", 70), (two, 12), (other, 8)]
    assert told(tmp_path, 8) == [("p", 70), (two, 8)]
    start(tmp_path, corpora[1], 4)  # back behind both: what came after is no more
    assert told(tmp_path, 6) == [("p", 70), (two, 4), (other, 2)]
    assert lineage.at_step(tmp_path, 6) == [
        PARENT[0],
        lineage.stage(corpora[0], corpora[0].sessions, "train", steps=4),
        lineage.stage(corpora[1], corpora[1].sessions, "train", steps=2),
    ]
    start(tmp_path, corpora[1], 0)  # anew
    assert told(tmp_path, 5) == [(other, 5)]


def test_what_a_run_of_an_earlier_version_saw_is_not_known(tmp_path, corpora):
    start(tmp_path, corpora[0], 8, was="w")
    assert told(tmp_path, 9) == [("w", 8), (corpora[0].fingerprint, 1)]
    stages = lineage.at_step(tmp_path, 9)
    assert stages
    assert stages[0]["sessions"] is None
    old = {"trained": {"run": "r", "step": 9, "corpus": "w"}}
    assert lineage.of_export(old) == [
        {"corpus": "w", "split": "train", "steps": 9, "sessions": None}
    ]
    assert lineage.seen(stages[:1], corpora[0], corpora[0].sessions[0], "train") == []


def test_a_recording_is_found_again_by_its_hash(corpora):
    two, other = corpora
    first = other.sessions[0].model_copy(update={"id": "renamed"})
    stages = [lineage.stage(two, two.sessions, "train", steps=3)]
    assert lineage.seen(stages, other, first, "test") == stages
    assert lineage.seen(stages, other, other.sessions[2], "test") == []
    assert lineage.seen(stages, two, two.sessions[0], "test") == []  # splits share no bin
    assert lineage.seen(stages, two, two.sessions[0], "train") == stages


def test_passes_are_told_where_a_run_has_written_them_down(tmp_path, corpora):
    for step, passes, number in ((0, 2.5, 0), (4, 3.0, 0), (8, 4.0, 1)):
        now = lineage.stage(corpora[number], [], "train", from_step=step, from_epochs=passes)
        lineage.begin(tmp_path, now, PARENT, "")
    stages = lineage.at_step(tmp_path, 12, 4.25) or []
    assert [(s["steps"], s.get("epochs")) for s in stages] == [(70, None), (8, 1.5), (4, 0.25)]
    assert "from_epochs" not in stages[1]
    assert [s.get("epochs") for s in lineage.at_step(tmp_path, 12) or ()] == [None, 1.5, None]
    told = lineage.lines(stages)
    assert told[0] == "1. 70 steps on split train of corpus `p`: 1 session"
    assert told[1].startswith("2. 8 steps (1.50 passes) on split train")
    unknown = lineage.of_export({"trained": {"step": 9, "epochs": 3.0}})
    assert "nobody wrote down" in lineage.lines(unknown)[0]
    assert unknown[0]["epochs"] == 3.0


ODD = [{**PARENT[0], **odd} for odd in ({"corpus": 5}, {"sessions": {"x": 7}}, {"epochs": "many"})]


@pytest.mark.parametrize(
    "bad", [5, ["x"], [{"corpus": "c", "split": "train", "steps": 1}, {}], *([o] for o in ODD)]
)
def test_stages_that_are_none_are_refused(bad):
    with pytest.raises(CheckpointCorrupt, match="lineage is no list of stages"):
        lineage.of_export({"trained": {"lineage": bad}})
