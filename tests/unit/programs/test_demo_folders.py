"""The demo works beside the script that was called, and deletes what it made alone."""

import pytest

from ndt3_dist.config import PROJECT
from ndt3_dist.errors import BadInput
from ndt3_dist.programs.demo import make_way, refuse_other_checkout


def test_a_corpus_that_a_demo_did_not_make_stays(tmp_path):
    corpus = tmp_path / "demo" / "a-20ms"
    corpus.mkdir(parents=True)
    (corpus / "manifest.json").write_text("{}")
    with pytest.raises(BadInput, match="is not a demo's and stays as it is"):
        make_way(corpus)
    assert (corpus / "manifest.json").exists()


def test_a_corpus_of_an_earlier_demo_makes_way(tmp_path, capsys):
    corpus, other = tmp_path / "demo" / "a-20ms", tmp_path / "demo" / "b-20ms"
    for one in (corpus, other, corpus):
        make_way(one)
        one.mkdir(parents=True)
        (one / "recipe.json").write_text("{}")
    assert capsys.readouterr().out.count("of an earlier demo") == 1
    assert (other / "recipe.json").exists()


def test_the_script_of_another_checkout_is_refused(tmp_path):
    (tmp_path / "launch").mkdir()
    (tmp_path / "ndt3_dist").mkdir()
    with pytest.raises(BadInput, match=f"finds the package of {PROJECT}"):
        refuse_other_checkout(tmp_path / "launch" / "demo.py")
    refuse_other_checkout(PROJECT / "launch" / "demo.py")
    refuse_other_checkout(tmp_path / "bin" / "ndt3")
