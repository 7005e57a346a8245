"""A corpus of several holds exactly their windows, is a corpus like any, and owns its bytes."""

import shutil
from pathlib import Path

import pytest
import yaml
from forks import run_program
from refusals import refused
from s3_server import S3, use
from small_corpus import make_recording, write_corpus
from streams import make_streams, rows_of, walk

from ndt3_dist import storage
from ndt3_dist.errors import BadInput, ManifestMismatch, ShardCorrupt
from ndt3_dist.pages.corpus_page import write_page
from ndt3_dist.prep import combine as module
from ndt3_dist.prep.combine import combine, patterns
from ndt3_dist.prep.output import WITHDRAWN, withdrawn
from ndt3_dist.prep.remove import remove_sessions
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import read_manifest, shard_path
from ndt3_dist.shards.verify import verify_corpus


@pytest.fixture
def parts(tmp_path) -> list[str]:
    """Corpora of two sessions each, of datasets t and u; t's first session was taken out."""
    first = [make_recording(i, 20 * i, [8]) for i in (1, 2, 3)]
    splits = [{"intervals": {"train": (0, 0.7), "val": (0.7, 1)}}]
    old = write_corpus(tmp_path / "t", first[:1], source_sha256="3" * 64, splits=splits)
    write_corpus(tmp_path / "t", first[1:], extends=old, splits=splits)
    remove_sessions(str(tmp_path / "t"), ["t-S-01"])
    second = [make_recording(i, 30, [8, 4]) for i in (2, 4)]
    write_corpus(tmp_path / "u", second, 3, dataset="u", source_sha256="1" * 64)
    return [str(tmp_path / "t"), str(tmp_path / "u")]


def windows_of(path: str, split: str = "train") -> dict[str, bytes]:
    corpus = Corpus(path, (split,))
    samples = [corpus.read(n) for n in range(len(corpus))]
    return {
        corpus.key(n): s["spikes"].tobytes() + s["covariates"].tobytes()
        for n, s in enumerate(samples)
    }


def files_below(folder: str) -> dict[str, bytes]:
    found = [p for p in sorted(Path(folder).rglob("*")) if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def test_it_holds_the_windows_of_all_and_is_a_corpus(parts, tmp_path):
    import webdataset

    out = str(tmp_path / "both")
    before = [files_below(part) for part in parts]
    made = combine(out, parts)
    assert read_manifest(out) == made
    assert verify_corpus(out) == []
    assert [s.id for s in made.sessions] == [
        *("removed-000000", "t-S-02", "t-S-03", "u-S-02", "u-S-04"),
    ]
    assert windows_of(out) == windows_of(parts[0]) | windows_of(parts[1])
    assert windows_of(out, "val") == windows_of(parts[0], "val")
    kinds = [p["fingerprint"] for p in made.recipe["combined"]]
    assert kinds == [read_manifest(part).fingerprint for part in parts]
    assert str(tmp_path) not in storage.read_text(f"{out}/manifest.json")
    shards = [shard_path(out, s.name) for s in made.shards]
    stock = [s["__key__"] for s in webdataset.WebDataset(shards, shardshuffle=False)]
    assert sorted(stock) == sorted([*windows_of(out), *windows_of(out, "val")])
    tar = Path(shards[-1])
    assert tar.stat().st_ino in {p.stat().st_ino for p in Path(parts[1]).rglob("*.tar")}
    assert [files_below(part) for part in parts] == before
    assert combine(out, parts) == made  # complete already
    assert combine(str(tmp_path / "again"), parts).fingerprint == made.fingerprint
    assert write_page(out)


def test_a_stream_yields_each_window_of_both_once_and_a_run_on_the_first_goes_on(
    parts, tmp_path, tiny_model
):
    out = str(tmp_path / "both")
    combine(out, parts)
    options = {"batch": (2, 1), "lanes": 2, "workers": 0}
    (stream,) = make_streams(out, tiny_model, **options)
    steps = walk([stream], -(-stream.plan.epoch_rows // 2))
    corpus, found = Corpus(out), [n for ranks in steps for *_, row in rows_of(ranks) for n in row]
    epoch = found[: len(corpus)]
    assert sorted(epoch) == list(range(len(corpus)))
    assert {corpus.key(n) for n in epoch} == {*windows_of(parts[0]), *windows_of(parts[1])}

    (alone,) = make_streams(parts[0], tiny_model, **options)
    state = alone.state(walk([alone], 1)[-1][0].after)
    (later,) = make_streams(out, tiny_model, state=state, **options)
    assert len(later.plan.phases) == 2


def run(*arguments):
    return run_program("data_prep/combine.py", *arguments)


def test_the_program_prints_what_a_config_needs(parts, tmp_path, tiny_model):
    out = tmp_path / "both"
    done = run(out, f"{parts[0]}=3", parts[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: 5 sessions, ")
    data = yaml.safe_load(done.stdout.partition("\n")[2])["data"]
    assert data.pop("corpus") == str(out)
    assert data["mixture"] == [
        {"sessions": ["t-*"], "weight": 3.0},
        {"sessions": ["u-*"], "weight": 1.0},
    ]
    (stream,) = make_streams(str(out), tiny_model, **data)
    assert len(stream.plan.sources.every) == 2
    refused(run(tmp_path / "no", f"{parts[0]}=-1", parts[1]), "weight -1; expected 0 or more")
    refused(run(tmp_path / "no", parts[0]), "expected two corpora or more")
    refused(run(tmp_path / "no", parts[0], tmp_path / "none"), "none: no manifest.json")
    refused(run(tmp_path / "no", f"{parts[0]}=x", parts[1]), "t=x: no manifest.json")
    assert not (tmp_path / "no").exists()


def test_patterns_name_a_part_and_no_other(parts, tmp_path):
    write_corpus(tmp_path / "t2", [make_recording(9, 10, [8])], source_sha256="2" * 64)
    manifests = [read_manifest(path) for path in (*parts, str(tmp_path / "t2"))]
    assert patterns(manifests) == [["t-S-02", "t-S-03"], ["u-*"], ["t-S-09"]]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"bin_size_ms": 50}, r"v: bin_size_ms is 50, .*t has 20; prepare them alike"),
        ({"window_ms": 1000}, r"v: window_bins is 50, .*t has 100; prepare them alike"),
        ({"dataset": "t"}, r"v: 1 sessions are in .*/t too: t-S-02; data_prep/remove.py"),
        ({"source_sha256": "3" * 64}, r"v: v-S-02 was taken out of .*/t; take it out here, too"),
        ({"source_sha256": "1" * 64}, r"v: v-S-02 is the same recording as u-S-02 of .*/u; data"),
    ],
)
def test_what_does_not_go_together_is_refused(parts, tmp_path, keys, message):
    write_corpus(
        tmp_path / "v",
        [make_recording(2, 20, [8])],
        **{"dataset": "v", "source_sha256": "2" * 64, **keys},
    )
    with pytest.raises(BadInput, match=message):
        combine(str(tmp_path / "both"), [*parts, str(tmp_path / "v")])
    with pytest.raises(BadInput):
        combine(str(tmp_path / "both"), [str(tmp_path / "v"), *parts])
    assert not (tmp_path / "both").exists()


def test_what_was_taken_out_of_a_part_stays_out_though_that_was_made_anew(parts, tmp_path):
    write_corpus(tmp_path / "v", [make_recording(5, 20, [8])], dataset="v", source_sha256="2" * 64)
    left = {"recordings": ["2" * 64], "next_shard": 20}
    storage.write_json(Path(parts[0]) / WITHDRAWN, left)
    with pytest.raises(BadInput, match=r"v: v-S-05 was taken out of .*/t; take it out here, too"):
        combine(str(tmp_path / "both"), [*parts, str(tmp_path / "v")])
    made = combine(str(tmp_path / "both"), parts)
    assert withdrawn(str(tmp_path / "both"))["recordings"] == ["2" * 64]
    own = [s.name for s in read_manifest(parts[0]).shards]
    count = len(made.shards) - len(own)  # no name that a run on the first may have seen
    assert [s.name for s in made.shards] == [*own, *(f"{20 + n:06d}" for n in range(count))]
    assert withdrawn(str(tmp_path / "both"))["next_shard"] == 20 + count
    assert verify_corpus(str(tmp_path / "both")) == []


def test_an_output_that_is_something_else_is_left_alone(parts, tmp_path):
    with pytest.raises(ManifestMismatch, match="exists and is not a corpus"):
        combine(parts[1], parts)
    out = str(tmp_path / "both")
    combine(out, parts)
    remove_sessions(parts[1], ["u-S-02"])
    with pytest.raises(ManifestMismatch, match=r"made by another recipe \(combined differ\)"):
        combine(out, parts)
    assert verify_corpus(out) == []


def test_a_removal_elsewhere_breaks_nothing_and_one_here_leaves_nothing(parts, tmp_path):
    out = str(tmp_path / "both")
    combine(out, parts)
    whole, lost = windows_of(out), windows_of(parts[1])
    remove_sessions(parts[1], ["u-S-02"])
    assert windows_of(out) == whole
    for part in parts:
        shutil.rmtree(part)
    assert verify_corpus(out) == []
    remove_sessions(out, ["u-S-02"])
    assert verify_corpus(out) == []
    assert b"u-S-02" not in b"".join(files_below(out).values())
    assert windows_of(out) == {k: v for k, v in whole.items() if "u-S-02" not in k}
    assert len(lost) > sum("u-S-04" in k for k in lost)


def test_a_split_rule_of_any_of_them_that_names_a_removed_session_is_told(parts, tmp_path):
    splits = [{"match": m, "intervals": {"train": (0, 1)}} for m in ("v-S-02", "*")]
    recording = make_recording(2, 20, [8])
    write_corpus(tmp_path / "v", [recording], dataset="v", source_sha256="2" * 64, splits=splits)
    combine(str(tmp_path / "inner"), [parts[1], str(tmp_path / "v")])
    combine(str(tmp_path / "outer"), [parts[0], str(tmp_path / "inner")])
    done = remove_sessions(str(tmp_path / "outer"), ["v-S-02"])
    assert done.named == ["split rule v-S-02"]


def test_one_that_was_interrupted_is_no_corpus_and_is_finished(parts, tmp_path, monkeypatch):
    out, real, calls = str(tmp_path / "both"), storage.copy, []

    def die(source, to):
        calls.append(to)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(source, to)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "copy", die)
        patch.setattr(module.os, "cpu_count", lambda: 1)
        with pytest.raises(KeyboardInterrupt):
            combine(out, parts)
    assert list(Path(out).rglob("*.tar"))
    with pytest.raises(ManifestMismatch, match=r"no manifest\.json, so no corpus"):
        read_manifest(out)
    (Path(out) / "shards" / "000777.tar").write_bytes(b"of another")
    made = combine(out, parts)
    assert verify_corpus(out) == []
    assert windows_of(out) == windows_of(parts[0]) | windows_of(parts[1])
    names = {s.name for s in made.shards}
    assert {p.name.split(".")[0] for p in (Path(out) / "shards").iterdir()} == names


def test_a_shard_that_is_not_what_it_was_is_named(parts, tmp_path, monkeypatch):
    tar = next(Path(parts[1]).rglob("*.tar"))
    data = tar.read_bytes()
    tar.write_bytes(data[:-512])
    with pytest.raises(ShardCorrupt, match=rf"{tar.name}: its length is not the manifest's"):
        combine(str(tmp_path / "both"), parts)
    tar.unlink()
    with pytest.raises(ShardCorrupt, match=f"{tar.name}: missing; restore it"):
        combine(str(tmp_path / "both"), parts)
    tar.write_bytes(data)
    assert verify_corpus(str(combine(str(tmp_path / "both"), parts) and tmp_path / "both")) == []


def test_a_session_that_is_taken_out_meanwhile_stays_out(parts, tmp_path, monkeypatch):
    real, last = module.place, read_manifest(parts[1]).shards[-1].name

    def place(like, out, path, part, shard, *more):
        placed = real(like, out, path, part, shard, *more)
        if path == parts[1] and shard.name == last:
            remove_sessions(path, ["u-S-02"])
        return placed

    monkeypatch.setattr(module.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(module, "place", place)
    with pytest.raises(ManifestMismatch, match=r"u: changed meanwhile; remove .*both and start"):
        combine(str(tmp_path / "both"), parts)
    assert not (tmp_path / "both" / "manifest.json").exists()


def test_corpora_on_a_disk_and_in_a_store_make_the_same(parts, tmp_path, monkeypatch):
    expected = combine(str(tmp_path / "both"), parts)
    root = tmp_path / "s3"
    shutil.copytree(parts[1], root / "lab" / "u")
    shutil.copytree(parts[0], root / "lab" / "t")
    s3 = S3(root)
    try:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        use(s3)
        near = str(tmp_path / "near")
        assert combine(near, [parts[0], "s3://lab/u"]) == expected
        assert files_below(near) == files_below(str(tmp_path / "both"))
        s3.gets.clear()
        assert combine("s3://lab/far", ["s3://lab/t", "s3://lab/u"]) == expected
        assert not [path for path, _ in s3.gets if path.endswith(".tar")]  # copied over there
        assert files_below(str(root / "lab" / "far")) == files_below(near)
    finally:
        s3.close()
