"""A session that is taken out leaves no byte; names that are replaced are nowhere."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from small_corpus import make_recording, write_corpus
from streams import one_stream

from ndt3_dist import storage
from ndt3_dist.errors import BadInput, ManifestMismatch
from ndt3_dist.prep import job, remove
from ndt3_dist.prep.dry_run import dry_rows, num_broken
from ndt3_dist.prep.output import withdrawn
from ndt3_dist.prep.recipe import load_recipe
from ndt3_dist.prep.remove import remove_sessions
from ndt3_dist.shards.cache import Cache
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import read_manifest
from ndt3_dist.shards.verify import verify_corpus

NWB_YAML = Path(__file__).resolve().parents[3] / "data_prep" / "recipes" / "nwb.yaml"


def bytes_below(folder: Path) -> bytes:
    return b"".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())


@pytest.fixture
def corpus(tmp_path):
    write_corpus(tmp_path / "c", [make_recording(i, 40, [40]) for i in (1, 2, 3)], shard_mb=0.05)
    return tmp_path / "c"


def test_a_session_is_gone_from_shards_caches_and_manifest(corpus, tmp_path, tiny_model):
    before, cache = read_manifest(str(corpus)), Cache(tmp_path / "cache", 10**9)
    cache.folder.mkdir()
    for shard in before.shards:
        shutil.copy(corpus / "shards" / f"{shard.name}.tar", cache.folder / shard.sha256)
    whole = Corpus(str(corpus))
    kept = {whole.key(n): whole.read(n) for n in range(len(whole)) if "-02-" not in whole.key(n)}
    storage.write_json(tmp_path / "runs" / "a" / "normalisation.json", {"sessions": {"t-S-02": {}}})
    storage.write_json(tmp_path / "runs" / "b" / "normalisation.json", {"sessions": {"t-S-01": {}}})

    done = remove_sessions(str(corpus), ["t-S-02"], [cache], [str(tmp_path / "runs")])
    after = read_manifest(str(corpus))
    assert done.windows == 20
    assert done.runs == [str(tmp_path / "runs" / "a")]
    assert done.cached == len(done.rewritten) > 1
    assert b"t-S-02" not in bytes_below(corpus)
    assert b"t-S-02" not in bytes_below(cache.folder)
    assert verify_corpus(str(corpus)) == []
    assert [s.id for s in after.sessions] == ["t-S-01", "removed-000001", "t-S-03"]
    assert not {s.name for s in after.shards} & {old for old, _ in done.rewritten}
    found = Corpus(str(corpus))
    assert {found.key(n) for n in range(len(found))} == set(kept)
    for number in range(len(found)):
        sample, expected = found.read(number), kept[found.key(number)]
        assert np.array_equal(sample["spikes"], expected["spikes"])
        assert np.array_equal(sample["covariates"], expected["covariates"], equal_nan=True)
    one_stream(found, tiny_model)  # it trains on
    with pytest.raises(BadInput, match="no session 't-S-02'"):
        remove_sessions(str(corpus), ["t-S-02"])


def test_a_removal_that_was_killed_is_finished_by_the_next(corpus, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ndt3_dist.prep.remove.put_manifest", die)
        with pytest.raises(KeyboardInterrupt):
            remove_sessions(str(corpus), ["t-S-02"])
    assert read_manifest(str(corpus)).sessions[1].id == "t-S-02"  # it died before the manifest
    real = remove.clear
    with monkeypatch.context() as patch:  # and now after it
        patch.setattr(
            remove, "clear", lambda c, m: die() if m.sessions[1].bins == 0 else real(c, m)
        )
        with pytest.raises(KeyboardInterrupt):
            remove_sessions(str(corpus), ["t-S-02"])
    assert b"t-S-02" in bytes_below(corpus)
    with pytest.raises(BadInput, match="no session"):
        remove_sessions(str(corpus), ["t-S-02"])
    assert b"t-S-02" not in bytes_below(corpus)
    assert verify_corpus(str(corpus)) == []


def test_a_folder_of_runs_that_is_not_there_is_no_answer(corpus, tmp_path):
    with pytest.raises(BadInput, match="nothing was looked through"):
        remove_sessions(str(corpus), ["t-S-02"], (), [str(tmp_path / "rusn")])
    assert b"t-S-02" in bytes_below(corpus)


def test_what_saw_a_session_through_its_parent_is_listed_wherever_it_lies(corpus, tmp_path):
    """By its recording's hash: a fine-tune's corpus may call it otherwise, or not have it."""
    hashes = {s.id: s.source_sha256 for s in read_manifest(str(corpus)).sessions}
    saw = [{"corpus": "0", "split": "train", "steps": 4, "sessions": {"x": hashes["t-S-02"]}}]
    other = [{"corpus": "0", "split": "train", "steps": 4, "sessions": {"x": hashes["t-S-01"]}}]
    unknown = [{"corpus": "0", "split": "train", "steps": 4, "sessions": None}]
    a, b = tmp_path / "a", tmp_path / "b"
    exports = {a / "tuned" / "export": [*unknown, *saw, *other], a / "not" / "export": other}
    for folder, lineage in {**exports, b / "copied": saw}.items():
        storage.write_json(folder / "config.json", {"trained": {"lineage": lineage}})
    storage.write_json(b / "run" / "lineage.json", {"before": saw, "stages": other})
    storage.write_json(b / "tune" / "config.json", {"run": {"name": "of no export"}})
    storage.write_json(b / "import" / "config.json", {"trained": {"run": "r", "step": 4}})
    storage.write_json(b / "on" / "lineage.json", {"before": unknown, "stages": other})
    done = remove_sessions(str(corpus), ["t-S-02"], (), [str(a), str(b)])
    expected = [a / "tuned" / "export", b / "copied", b / "run"]
    assert done.runs == sorted(map(str, expected))
    assert done.unsure == [str(b / "import"), str(b / "on")]


def test_what_was_taken_out_does_not_come_back_unnoticed(
    tmp_path, write_session, without_ray, capsys
):
    for number, name in enumerate("ab"):
        write_session(tmp_path / "nwb" / f"{name}.nwb", seed=number)
    overrides = [f"source={tmp_path / 'nwb'}", f"out={tmp_path / 'c'}", "dataset=t"]
    recipe = load_recipe(NWB_YAML, overrides)
    job.prepare(recipe)
    remove_sessions(str(tmp_path / "c"), ["t-A-a"])
    shutil.move(tmp_path / "nwb" / "a.nwb", tmp_path / "nwb" / "renamed.nwb")
    manifest = job.prepare(recipe)
    assert [s.id for s in manifest.sessions] == ["removed-000000", "t-A-b"]
    assert manifest.failed == []  # nothing that is kept names it again
    assert "renamed.nwb: was taken out of this corpus" in capsys.readouterr().err
    rows = dry_rows(recipe)
    assert [row["problem"] for row in rows] == ["", "was taken out of this corpus"]
    assert num_broken(rows) == 0
    # Nor does it with a corpus that is made anew, killed or not.
    for killed in (True, False):
        if killed:
            (tmp_path / "c" / "manifest.json").unlink()
        manifest = job.prepare(recipe.model_copy(update={"rebuild": not killed}))
        assert [s.id for s in manifest.sessions] == ["t-A-b"]
        assert "renamed.nwb: was taken out" in capsys.readouterr().err
    assert verify_corpus(str(tmp_path / "c")) == []


def test_no_name_of_a_shard_is_used_twice(corpus):
    names = {s.name for s in read_manifest(str(corpus)).shards}
    remove_sessions(str(corpus), [s.id for s in read_manifest(str(corpus)).sessions])
    emptied = read_manifest(str(corpus))
    assert emptied.shards == []
    assert withdrawn(str(corpus))["next_shard"] >= len(names)


def test_files_that_were_never_finished_are_removed_too(corpus):
    (corpus / ".manifest.json.0a1b.tmp").write_text("t-S-02")
    (corpus / ".report.html.0a1b.tmp").write_text("t-S-02")
    remove_sessions(str(corpus), ["t-S-02"])
    assert b"t-S-02" not in bytes_below(corpus)


def test_the_same_bytes_under_two_names_are_one_session(
    tmp_path, write_session, without_ray, capsys
):
    first = write_session(tmp_path / "nwb" / "sub-A_ses-1.nwb", seed=0, session=None)
    shutil.copy(first, tmp_path / "nwb" / "sub-A_ses-2.nwb")
    keys = [f"source={tmp_path / 'nwb'}", f"out={tmp_path / 'c'}", "dataset=t"]
    manifest = job.prepare(load_recipe(NWB_YAML, keys))
    assert [s.id for s in manifest.sessions] == ["t-A-1"]
    assert [f.source for f in manifest.failed] == ["sub-A_ses-2.nwb"]
    assert manifest.failed[0].error == "is the same file as sub-A_ses-1.nwb"


def test_pseudonyms_are_all_that_a_corpus_and_its_messages_know(
    tmp_path, write_session, write_nwb, without_ray, capsys
):
    nwb = tmp_path / "nwb" / "sub-Jango"
    for number in range(2):
        write_session(nwb / f"Jango_day{number}.nwb", seed=number, subject="Jango")
    write_nwb(nwb / "Jango_bad.nwb", [[0.5, 0.25]], subject="Jango")
    (tmp_path / "key").write_text("a key of some length\n")
    overrides = [f"source={tmp_path / 'nwb'}", "dataset=t", "privacy.pseudonyms=true"]
    overrides += [f"privacy.key_file={tmp_path / 'key'}", "pattern=sub-Jango/*.nwb"]

    def prepare(name, *more):
        return job.prepare(load_recipe(NWB_YAML, [*overrides, f"out={tmp_path / name}", *more]))

    manifest = prepare("c")
    said = capsys.readouterr()
    for text in (bytes_below(tmp_path / "c").decode("latin1"), said.out, said.err):
        assert "Jango" not in text
        assert "day0" not in text
        assert str(tmp_path / "key") not in text
    assert len({s.subject for s in manifest.sessions}) == 1
    assert len({s.session for s in manifest.sessions}) == 2
    assert len(manifest.failed) == 1
    assert prepare("again").fingerprint == manifest.fingerprint
    (tmp_path / "key").write_text("another key of some length")
    with pytest.raises(ManifestMismatch, match=r"privacy\.key_file differ"):
        prepare("c")  # or all would come in again under other names
    assert prepare("other").sessions[0].subject != manifest.sessions[0].subject
    (tmp_path / "key").write_text("short")
    with pytest.raises(BadInput, match="5 bytes; expected 16 or more"):
        prepare("short")
    with pytest.raises(BadInput, match="cannot be read"):
        prepare("none", "privacy.key_file=nowhere")
    with pytest.raises(BadInput, match=r"key_file is for privacy\.pseudonyms"):
        prepare("c", "privacy.pseudonyms=false")
