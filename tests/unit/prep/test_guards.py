"""Nothing that a corpus holds is lost, and nothing that was taken out of it comes back."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from small_corpus import make_recording, write_corpus

from ndt3_dist import lease, remote, storage
from ndt3_dist.errors import BadInput, ManifestMismatch
from ndt3_dist.prep import combine, job, output, remove
from ndt3_dist.prep.dry_run import dry_rows
from ndt3_dist.prep.output import claim, differing, withdrawn
from ndt3_dist.prep.recipe import Recipe, load_recipe
from ndt3_dist.prep.recordings import find_recordings
from ndt3_dist.prep.remove import remove_sessions
from ndt3_dist.shards.manifest import read_manifest
from ndt3_dist.shards.verify import verify_corpus
from ndt3_dist.storage import sha256_file

NWB_YAML = Path(__file__).resolve().parents[3] / "data_prep" / "recipes" / "nwb.yaml"
OTHER = {"id": "other", "host": "elsewhere", "pid": 7}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.1)


@pytest.fixture
def lab(tmp_path, write_session, without_ray):
    """Two recordings, and the function that prepares what lies in their folder."""
    for number, name in enumerate("ab"):
        write_session(tmp_path / "nwb" / f"{name}.nwb", seed=number)

    def prepare(*overrides, out="c"):
        keys = [f"source={tmp_path / 'nwb'}", f"out={tmp_path / out}", "dataset=t"]
        return job.prepare(load_recipe(NWB_YAML, [*keys, "shard_mb=0.02", *overrides]))

    return prepare


def names_of(manifest) -> list[str]:
    return [s.id for s in manifest.sessions]


@pytest.mark.parametrize("lease_sees_it", [True, False])
def test_a_job_that_slept_through_a_withdrawal_writes_nothing(
    lab, tmp_path, write_session, monkeypatch, lease_sees_it
):
    lab()
    write_session(tmp_path / "nwb" / "c.nwb", seed=2)
    out, real = str(tmp_path / "c"), job.run_shards

    def sleeps(*arguments):
        shards = real(*arguments)
        storage.remove(f"{out}/job.json")  # what another job does with a mark that is not renewed
        remove_sessions(out, ["t-A-a"])
        time.sleep(0.5)  # and ours has time to write it again
        return shards

    monkeypatch.setattr(job, "run_shards", sleeps)
    if not lease_sees_it:
        monkeypatch.setattr(lease.Lease, "check", lambda self: None)
    with pytest.raises(ManifestMismatch, match="is gone" if lease_sees_it else "meanwhile"):
        lab()
    assert names_of(read_manifest(out)) == ["removed-000000", "t-A-b"]
    assert verify_corpus(out) == []


def test_a_manifest_is_written_by_the_job_that_has_the_output(lab, tmp_path, monkeypatch):
    out, real = tmp_path / "c", job.run_shards

    def taken_over(*arguments):
        shards = real(*arguments)
        storage.write_json(out / "job.json", OTHER)
        return shards

    monkeypatch.setattr(job, "run_shards", taken_over)
    with pytest.raises(ManifestMismatch, match="has begun"):
        lab()
    assert not (out / "manifest.json").exists()


def test_a_job_looks_at_its_lease_with_every_result(lab, monkeypatch):
    looks = []
    monkeypatch.setattr(lease.Lease, "still_held", lambda self: looks.append(self))
    manifest = lab()
    assert len(looks) == len(manifest.sessions) + len(manifest.shards)


@pytest.mark.parametrize("when", ["before", "at the manifest"])
def test_a_removal_ends_where_another_job_has_begun(tmp_path, monkeypatch, when):
    out = tmp_path / "c"
    before = write_corpus(out, [make_recording(i, 40, [40]) for i in (1, 2)], shard_mb=0.05)
    place, name = (remove, "without") if when == "before" else (remove, "put_manifest")
    real = getattr(place, name)

    def taken_over(*arguments):
        storage.write_json(out / "job.json", OTHER)
        return real(*arguments)

    monkeypatch.setattr(place, name, taken_over)
    with pytest.raises(ManifestMismatch, match="has begun"):
        remove_sessions(str(out), ["t-S-02"])
    assert read_manifest(str(out)) == before
    assert (withdrawn(str(out))["recordings"] == []) == (when == "before")
    assert verify_corpus(str(out)) == []


def test_a_combination_ends_where_another_job_has_begun(tmp_path, monkeypatch):
    for dataset in "tu":
        recordings, sha256 = [make_recording(1, 20, [8])], dataset.encode().hex() * 32
        write_corpus(tmp_path / dataset, recordings, dataset=dataset, source_sha256=sha256)
    real = combine.put_manifest

    def taken_over(*arguments):
        storage.write_json(tmp_path / "both" / "job.json", OTHER)
        return real(*arguments)

    monkeypatch.setattr(combine, "put_manifest", taken_over)
    with pytest.raises(ManifestMismatch, match="has begun"):
        combine.combine(str(tmp_path / "both"), [str(tmp_path / d) for d in "tu"])
    assert not (tmp_path / "both" / "manifest.json").exists()


def test_removals_remember_those_before_them_and_no_name_comes_twice(lab, tmp_path, write_session):
    splits = 'splits=[{match: "*-b", intervals: {val: [0, 1]}}, {intervals: {train: [0, 1]}}]'
    write_session(tmp_path / "nwb" / "a2.nwb", seed=5)
    used = {s.name for s in lab(splits).shards}  # those of b are the last ones
    out = str(tmp_path / "c")
    remove_sessions(out, ["t-A-b"])
    done = remove_sessions(out, ["t-A-a"])
    assert not used & {new for _, new in done.rewritten if new}
    used |= {new for _, new in done.rewritten}
    remove_sessions(out, ["t-A-a2"])
    assert len(withdrawn(out)["recordings"]) == 3
    assert read_manifest(out).shards == []
    write_session(tmp_path / "nwb" / "c.nwb", seed=6)
    manifest = lab(splits)
    assert names_of(manifest)[3:] == ["t-A-c"]
    assert not used & {s.name for s in manifest.shards}


def test_a_rebuild_that_fails_or_is_killed_leaves_the_corpus(lab, tmp_path, monkeypatch, capsys):
    before = lab()
    for name in "ab":
        (tmp_path / "nwb" / f"{name}.nwb").rename(tmp_path / name)
    (tmp_path / "nwb" / "a.nwb").write_bytes(b"garbage")
    with pytest.raises(BadInput, match="none of 1 recordings could be used"):
        lab("rebuild=true")
    assert read_manifest(str(tmp_path / "c")) == before
    assert verify_corpus(str(tmp_path / "c")) == []

    (tmp_path / "a").rename(tmp_path / "nwb" / "a.nwb")
    with monkeypatch.context() as patch:
        patch.setattr(job, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            lab("rebuild=true")
    assert read_manifest(str(tmp_path / "c")) == before
    assert verify_corpus(str(tmp_path / "c")) == []
    capsys.readouterr()
    after = lab("rebuild=true")
    assert names_of(after) == ["t-A-a"]
    assert "1 sessions of the corpus that was there are not in the new one: t-A-b" in (
        capsys.readouterr().err
    )
    assert verify_corpus(str(tmp_path / "c")) == []
    assert not {s.name for s in before.shards} & {s.name for s in after.shards}


def test_a_recording_of_a_store_that_has_another_length_is_refused(tmp_path, lab):
    for name in "ab":
        storage.copy(tmp_path / "nwb" / f"{name}.nwb", f"memory://lab/{name}.nwb")
    held = lab("source=memory://lab")
    assert held.sessions[0].source_bytes == (tmp_path / "nwb" / "a.nwb").stat().st_size
    assert held.fingerprint == lab(out="near").fingerprint
    storage.write_bytes("memory://lab/a.nwb", b"longer" + (tmp_path / "nwb/a.nwb").read_bytes())
    with pytest.raises(ManifestMismatch, match=r"a\.nwb changed since the corpus was made"):
        lab("source=memory://lab")
    storage.remove("memory://lab")


def test_what_was_withdrawn_from_a_combination_stays_out_of_it(tmp_path):
    parts = [str(tmp_path / d) for d in "tu"]
    for path in parts:
        dataset = path[-1]
        write_corpus(
            Path(path),
            [make_recording(i, 20, [8]) for i in (1, 2)],
            dataset=dataset,
            source_sha256=dataset.encode().hex() * 32,
        )
    out, theirs = str(tmp_path / "both"), {s.sha256 for s in read_manifest(parts[1]).shards}
    combine.combine(out, parts)
    remove_sessions(out, ["t-S-01"])
    storage.remove(f"{out}/manifest.json")
    with pytest.raises(BadInput, match=r"t: t-S-01 was taken out of .*both; take it out here"):
        combine.combine(out, parts)
    past, lost = withdrawn(out), read_manifest(parts[0]).named("t-S-01").source_sha256
    assert past["recordings"] == [lost]
    shutil.rmtree(f"{out}/shards")  # it may be started anew, and knows what it knew
    storage.remove(f"{out}/recipe.json")
    past["recordings"].append("f" * 64)
    storage.write_json(f"{out}/removed.json", past)
    remove_sessions(parts[0], ["t-S-01"])
    made = combine.combine(out, parts)
    assert withdrawn(out)["recordings"] == sorted(past["recordings"])
    assert min(int(s.name) for s in made.shards if s.sha256 in theirs) >= past["next_shard"]


def test_a_spool_is_used_where_it_is_whole_and_of_the_recording(
    lab, tmp_path, write_session, monkeypatch
):
    def killed():
        with monkeypatch.context() as patch:
            patch.setattr(job, "run_shards", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                lab()
        return sorted((tmp_path / "c" / "spool").glob("*.tar"))

    cut, gone = killed()
    held = cut.read_bytes()
    cut.write_bytes(held[:-512])
    gone.unlink()
    assert killed() == [cut, gone]  # made again
    assert cut.read_bytes() == held
    gone.with_suffix(".index.npy").unlink()
    write_session(tmp_path / "nwb" / "a.nwb", seed=9)  # and one is another recording by now
    manifest = lab()
    assert manifest.named("t-A-a").source_sha256 == sha256_file(tmp_path / "nwb" / "a.nwb")
    assert manifest.fingerprint == lab(out="fresh").fingerprint


def test_an_output_without_a_result_is_free_for_another_recipe(lab, tmp_path):
    with pytest.raises(BadInput, match="could be used"):
        lab("covariates.path=processing/behavior/Velcity/cursor_vel")
    right = "covariates.path=processing/behavior/Velocity/cursor_vel"
    manifest = lab(right)
    assert storage.read_json(tmp_path / "c" / "recipe.json") == manifest.recipe
    with pytest.raises(ManifestMismatch, match=r"\(covariates differ\); choose another place$"):
        lab()
    (tmp_path / "c" / "manifest.json").unlink()
    with pytest.raises(ManifestMismatch, match=r"choose another, or remove it$"):
        lab()
    (tmp_path / "c" / "recipe.json").write_text("[]")
    with pytest.raises(ManifestMismatch, match="made by another recipe"):
        lab(right)


def test_a_recipe_of_an_older_version_has_defaults_for_what_it_does_not_know(tmp_path):
    ours = Recipe(dataset="t").identity()
    older = {k: v for k, v in ours.items() if k != "validity"}
    older["covariates"] = {k: v for k, v in ours["covariates"].items() if k != "quantile"}
    assert differing(older, ours) == []
    assert differing(older | {"bin_size_ms": 10.0}, ours) == ["bin_size_ms"]
    assert differing(older, ours | {"privacy.key_file": "x"}) == ["privacy.key_file"]
    ours["covariates"]["quantile"] = 0.5
    assert differing(older, ours) == ["covariates"]
    storage.write_json(tmp_path / "recipe.json", older)
    storage.write_json(tmp_path / "manifest.json", {})
    claim(str(tmp_path), Recipe(dataset="t").identity())


def test_a_key_without_pseudonyms_and_another_key_are_refused(lab, tmp_path):
    key = tmp_path / "key"
    key.write_text("a key of some length")
    with pytest.raises(BadInput, match=r"key_file is for privacy\.pseudonyms"):
        lab(f"privacy.key_file={key}")
    keys = ["privacy.pseudonyms=true", f"privacy.key_file={key}"]
    lab(*keys)
    key.write_text("another of some length")
    with pytest.raises(ManifestMismatch, match=r"privacy\.key_file differ"):
        lab(*keys)
    with pytest.raises(BadInput, match=r"key_file \(empty\): cannot be read"):
        lab("privacy.pseudonyms=true", out="d")


@pytest.mark.parametrize("told", [[], {}, {"recordings": []}, {"recordings": 1, "next_shard": 1}])
def test_a_record_of_removals_that_is_none_is_named(lab, tmp_path, told):
    lab()
    storage.write_json(tmp_path / "c" / "removed.json", told)
    for use in (
        lambda: lab("rebuild=true"),
        lambda: remove_sessions(str(tmp_path / "c"), ["t-A-a"]),
    ):
        with pytest.raises(ManifestMismatch, match=r"removed\.json: not what removals leave"):
            use()


def test_a_removal_that_is_mistaken_changes_nothing(lab, tmp_path):
    lab()
    (tmp_path / "c" / "report.html").write_text("a page")
    with pytest.raises(ManifestMismatch, match=r"no manifest\.json"):
        remove_sessions(str(tmp_path / "typo"), ["t-A-a"])
    assert not (tmp_path / "typo").exists()
    with pytest.raises(BadInput, match="no session 't-A-z'"):
        remove_sessions(str(tmp_path / "c"), ["t-A-z"])
    assert (tmp_path / "c" / "report.html").exists()
    assert remove_sessions(str(tmp_path / "c"), ["t-A-a", "t-A-a"]).windows
    assert not (tmp_path / "c" / "report.html").exists()
    with pytest.raises(BadInput, match="removed-000000 was taken out already"):
        remove_sessions(str(tmp_path / "c"), ["removed-000000"])
    keys = {"source": str(tmp_path / "nwb"), "out": str(tmp_path / "c")}
    problems = [row["problem"] for row in dry_rows(Recipe(dataset="t", **keys))]
    assert problems == ["was taken out of this corpus", ""]


def test_files_that_are_nobodys_are_told_and_a_recipe_must_be_its_hashs(lab, tmp_path, capsys):
    lab()
    (tmp_path / "c" / "shards" / "000777.tar").write_bytes(b"x")
    assert verify_corpus(str(tmp_path / "c")) == []
    assert "1 files are not the manifest's, such as 000777.tar" in capsys.readouterr().err
    told = storage.read_json(tmp_path / "c" / "manifest.json")
    told["recipe"]["bin_size_ms"] = 999
    storage.write_json(tmp_path / "c" / "manifest.json", told)
    (problem,) = verify_corpus(str(tmp_path / "c"))
    assert "manifest.json: its recipe is not the one of recipe_sha256" in problem


def test_folders_behind_links_are_read_once_and_loops_end(tmp_path):
    real = tmp_path / "nwb" / "sub-A"
    (tmp_path / "disk" / "sub-B").mkdir(parents=True)
    real.mkdir(parents=True)
    for path in (real / "a.nwb", tmp_path / "disk" / "sub-B" / "b.nwb"):
        path.write_bytes(b"x")
    (tmp_path / "nwb" / "again").symlink_to(real)
    (tmp_path / "nwb" / "other").symlink_to(tmp_path / "disk")
    (real / "up").symlink_to(tmp_path / "nwb")
    (tmp_path / "disk" / "back").symlink_to(real)
    found = find_recordings(Recipe(dataset="t", source=str(tmp_path / "nwb")))
    assert [s.name for s in found] == ["other/sub-B/b.nwb", "sub-A/a.nwb"]


@pytest.mark.parametrize("pattern", ["", "/lab/*.nwb", "../*.nwb"])
def test_a_pattern_that_leads_out_of_the_source_is_refused(pattern):
    with pytest.raises(ValueError, match="expected one below the source"):
        Recipe(dataset="t", pattern=pattern)


def test_rates_are_those_of_channels_with_spikes(lab, write_nwb, tmp_path, capsys):
    """Electrodes without a unit neither hide a rate that cannot be, nor make one."""
    many = ("M1",) * 96
    quiet = [np.arange(0.5, 100, 2.0)] * 4  # .5 a second: .02 of all electrodes
    write_nwb(tmp_path / "quiet" / "a.nwb", quiet, electrodes=[0, 1, 2, 3], groups=many)
    lab(f"source={tmp_path / 'quiet'}", out="q")
    assert "are its times in seconds" not in capsys.readouterr().err
    minutes = [np.arange(0.5, 600, 1 / 30) / 60] * 4  # 1,800 a second: 75 of all electrodes
    write_nwb(tmp_path / "minutes" / "a.nwb", minutes, electrodes=[0, 1, 2, 3], groups=many)
    lab(f"source={tmp_path / 'minutes'}", out="m")
    assert "1.8e+03 spikes a second and channel" in capsys.readouterr().err


def test_one_slash_is_no_url_and_times_in_ms_are_asked_about(lab, write_nwb, tmp_path, capsys):
    with pytest.raises(BadInput, match=r"out s3:/lab/c: has one slash"):
        lab("out=s3:/lab/c")
    assert not Path("s3:").exists()
    lab()
    assert "are its times in seconds" not in capsys.readouterr().err
    times = [[1000.0 * t for t in range(30)]]
    write_nwb(tmp_path / "ms" / "a.nwb", times)
    lab(f"source={tmp_path / 'ms'}", out="d")
    assert "a.nwb: 0.001 spikes a second and channel" in capsys.readouterr().err


def test_a_store_names_what_is_not_there():
    with pytest.raises(FileNotFoundError) as e:
        remote.size("memory://nowhere/a.nwb")
    assert e.value.filename == "memory://nowhere/a.nwb"
    assert e.value.strerror == "no such file"


def test_a_manifest_may_be_written_again_where_the_answer_was_lost(tmp_path, monkeypatch):
    corpus = write_corpus(tmp_path / "c", [make_recording(1, 20, [8])])
    output.put_manifest(str(tmp_path / "c"), corpus, None, lambda: None)
    another = corpus.model_copy(update={"fingerprint": "0" * 64})
    with pytest.raises(ManifestMismatch, match="another job has changed the corpus meanwhile"):
        output.put_manifest(str(tmp_path / "c"), another, None, lambda: None)
