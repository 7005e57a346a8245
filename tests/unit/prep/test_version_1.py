"""A corpus of version 1 is read, extended, combined and shrunk as it is: it stays of version 1."""

import shutil

import numpy as np
import pytest
from small_corpus import make_recording, write_corpus
from streams import make_streams, rows_of, walk

from ndt3_dist import storage
from ndt3_dist.errors import BadInput, ShardCorrupt
from ndt3_dist.prep.combine import combine
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.remove import remove_sessions
from ndt3_dist.prep.stages import plan_shards
from ndt3_dist.readers.recording import Signal
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import Manifest, read_manifest
from ndt3_dist.shards.verify import verify_corpus

RECORDINGS = [make_recording(i, 20 + 3 * i, [40, 8]) for i in (1, 2, 3)]


@pytest.fixture
def corpora(tmp_path) -> dict[int, str]:
    """The same recordings in both versions."""
    for version in (1, 2):
        write_corpus(tmp_path / f"v{version}", RECORDINGS[:2], version=version)
    return {version: str(tmp_path / f"v{version}") for version in (1, 2)}


def windows_of(path: str) -> dict[str, tuple]:
    """Of each window its arrays and what its record counts."""
    corpus = Corpus(path)
    found = {}
    for n in range(len(corpus)):
        sample, record = corpus.read(n), corpus.record(n)
        arrays = {name: array.tobytes() for name, array in sample.items()}
        found[corpus.key(n)] = arrays, {name: int(record[name]["values"]) for name in sample}
    return found


def test_both_versions_hold_the_same_and_give_a_model_the_same_tokens(corpora, tiny_model):
    assert windows_of(corpora[1]) == windows_of(corpora[2])
    manifests = [read_manifest(path) for path in corpora.values()]
    assert [m.version for m in manifests] == [1, 2]
    assert manifests[0].fingerprint != manifests[1].fingerprint
    tokens = []
    for path in corpora.values():
        assert verify_corpus(path) == []
        (stream,) = make_streams(path, tiny_model, batch=(2, 1), workers=0)
        numbers = np.arange(len(stream.corpus))
        keys = [stream.corpus.key(n) for n in numbers.tolist()]
        counted = np.c_[stream.tokens_of(numbers), stream.counts_of(numbers)].tolist()
        tokens.append(dict(zip(keys, counted, strict=True)))
        steps = walk([stream], -(-stream.plan.epoch_rows // 2))
        rows = [n for ranks in steps for *_, row in rows_of(ranks) for n in row]
        assert {*rows} == {*numbers.tolist()}
    assert tokens[0] == tokens[1]


def test_it_grows_and_shrinks_and_keeps_its_version(corpora, tmp_path):
    path = tmp_path / "v1"
    before = read_manifest(str(path))
    write_corpus(path, RECORDINGS[2:], extends=before, version=1, source_sha256="3" * 64)
    grown = read_manifest(str(path))
    assert grown.version == 1
    assert grown.shards[: len(before.shards)] == before.shards
    assert len(windows_of(str(path))) > len(windows_of(corpora[2]))
    remove_sessions(str(path), ["t-S-01"])
    left = read_manifest(str(path))
    assert left.version == 1
    assert verify_corpus(str(path)) == []
    assert {k.rsplit("-", 1)[0] for k in windows_of(str(path))} == {"t-S-02", "t-S-03"}
    assert set(storage.read_json(path / "manifest.json")["shards"][0]) >= {"tokens"}


@pytest.mark.parametrize("first", [1, 2])
def test_combined_corpora_are_of_the_first_ones_version(corpora, tmp_path, first):
    other = tmp_path / "other"
    write_corpus(other, RECORDINGS[2:], version=3 - first, source_sha256="3" * 64)
    made = combine(str(tmp_path / "both"), [corpora[first], str(other)])
    assert made.version == first
    assert verify_corpus(str(tmp_path / "both")) == []
    found = windows_of(str(tmp_path / "both"))
    assert found == windows_of(corpora[first]) | windows_of(str(other))


def with_lfp(path) -> Manifest:
    """A corpus of version 2 with a stream that version 1 does not know."""
    recording = make_recording(7, 30, [8])
    times = np.arange(0, 30, 0.01)
    recording.signals = [Signal("lfp", np.sin(times)[:, None], times, "uV", per_bin=2)]
    return write_corpus(path, [recording], source_sha256="7" * 64)


def test_another_stream_needs_a_corpus_of_version_2(corpora, tmp_path):
    made = with_lfp(tmp_path / "lfp")
    assert made.members == ("spikes", "covariates", "lfp")
    with pytest.raises(BadInput, match="version 1, which cannot hold lfp; name a corpus of vers"):
        combine(str(tmp_path / "both"), [corpora[1], str(tmp_path / "lfp")])
    for path in corpora.values():
        spool = {"session": made.sessions[0].model_dump(mode="json")}
        with pytest.raises(BadInput, match=r"streams that the corpus does not have \(lfp\)"):
            plan_shards([spool], Recipe(dataset="t", out=path), read_manifest(path))
    combined = combine(str(tmp_path / "both"), [corpora[2], str(tmp_path / "lfp")])
    assert combined.members == ("spikes", "covariates", "lfp")
    assert verify_corpus(str(tmp_path / "both")) == []
    sizes = {frozenset(Corpus(str(tmp_path / "both")).read(n)) for n in range(3)}
    assert sizes <= {frozenset({"spikes", "covariates"}), frozenset(made.members)}


def test_an_index_of_the_other_version_is_no_index(corpora, tmp_path):
    shutil.copytree(corpora[1], tmp_path / "mixed")
    values = storage.read_json(tmp_path / "mixed" / "manifest.json")
    values |= {"version": 2, "fingerprint": ""}
    made = Manifest.of(**{k: v for k, v in values.items() if k != "fingerprint"})
    values["fingerprint"] = made.fingerprint
    storage.write_json(tmp_path / "mixed" / "manifest.json", values)
    with pytest.raises(ShardCorrupt, match="not an index of corpus version 2"):
        Corpus(str(tmp_path / "mixed")).records_of(0)
