"""Handwriting: symbols, greedy decoding, and a head that the CTC loss fits to features."""

import numpy as np
import pytest
import torch
from falcon_files import public_name, write_file, write_random_export
from safetensors.torch import load_file, save_file

from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.model.load import load_model
from ndt3_dist.tasks.falcon.decoder import How
from ndt3_dist.tasks.falcon.handwriting import TextDecoder, features_of, read_trials
from ndt3_dist.tasks.falcon.tags import TASKS
from ndt3_dist.tasks.falcon.text_fit import TextFit, chosen_files, fit_text
from ndt3_dist.tasks.falcon.text_head import SYMBOLS, as_symbols, as_text, load_head

TASK = TASKS["h2"]
SMALL = TextFit(steps=30, batch=4, hidden=24, every=30, lr=2e-2)


def test_symbols_are_31_and_blanks_part_equal_ones():
    assert len(SYMBOLS) == 31
    numbers = as_symbols("hello>", "here")
    assert min(as_symbols(SYMBOLS, "")) == 1  # 0 is the blank
    with_blanks = [0, *numbers[:2], numbers[2], numbers[2], 0, numbers[3], *numbers[4:], 0]
    assert as_text(np.array(with_blanks)) == "hello>"
    assert as_text(np.array(numbers)) == "helo>"
    assert as_text(np.zeros(0)) == as_text(np.zeros(5)) == ""
    with pytest.raises(BadInput, match="here: 'A 1' has   1 A; expected only"):
        as_symbols("A 1", "here")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Two recordings of two trials each, and a text decoder fitted to them."""
    folder = tmp_path_factory.mktemp("h2")
    write_random_export(folder / "init", {})
    for number, tag in enumerate((TASK.held_in[0], TASK.held_out[0])):
        write_file(folder / "data" / public_name(TASK, tag, "calib"), TASK, 40, number, gap=20)
    found = fit_text("few-shot", [folder / "data"], folder / "init", folder / "fit", SMALL)
    return folder, found


def test_a_head_is_fitted_and_reads_what_it_has_seen(fitted):
    folder, found = fitted
    assert (found["trials"], found["held_back"]) == (2, 2)
    assert 0 < found["best_step"] <= 30
    decoder = TextDecoder(folder / "fit", How(kind="fp32"))
    path = folder / "data" / public_name(TASK, TASK.held_in[0], "calib")
    decoder.reset([path])
    trials = read_trials(TASK, path)
    read = []
    for trial in trials:
        for counts in trial.counts:
            decoder.predict(counts[None])
            assert decoder.on_done(np.array([False])) == ""
        read.append(decoder.on_done(np.array([True])))
    assert read[0] == trials[0].text  # the other one was held back


def test_text_bin_by_bin_is_that_of_the_whole_trial(fitted):
    folder, _ = fitted
    model = load_model(folder / "fit" / "export")
    head = load_head(folder / "fit" / "export", model.config.dim)
    counts = np.random.default_rng(5).poisson(1, (25, 192)).astype(np.uint8)
    with torch.no_grad():
        whole = head(features_of(model, counts, 20, 1)[None])[0][0].numpy()
    decoder = TextDecoder(folder / "fit", How(keep=False))
    for _ in range(2):  # a new recording has no memory of the last
        decoder.reset([TASK.held_in[3]])
        steps = np.concatenate([decoder.predict(bin_[None]) for bin_ in counts])
        np.testing.assert_allclose(steps, whole, atol=1e-4)
    kept = TextDecoder(folder / "fit", How(kind="fp32"))
    kept.reset([TASK.held_in[3]])
    steps = np.concatenate([kept.predict(bin_[None]) for bin_ in counts])
    np.testing.assert_allclose(steps[:20], whole[:20], atol=1e-4)
    # What the head was fitted to is what it is given, behind the first window, too.
    kept.reset([TASK.held_in[3]])
    given = np.concatenate([kept.online.hidden(bin_[None])[0].numpy() for bin_ in counts])
    with torch.no_grad():
        anew, rolled = (features_of(model, counts, 20, stride).numpy() for stride in (1, 0))
    largest = np.abs(anew).max()
    np.testing.assert_allclose(given, rolled, atol=1e-5 * largest)
    assert np.abs(anew[21:] - rolled[21:]).max() > 1e-3 * largest


def test_ndt3_learns_where_it_is_asked_to_and_else_stays(fitted):
    folder, _ = fitted
    how = TextFit(steps=2, batch=2, hidden=8, every=2, backbone_lr=1e-3)
    fit_text("zero-shot", [folder / "data"], folder / "init", folder / "learnt", how)
    names = ("init", "fit/export", "learnt/export")
    init, stayed, learnt = (load_file(folder / n / "model.safetensors") for n in names)
    assert all(torch.equal(init[name], stayed[name]) for name in init)
    assert not torch.equal(init["spike_in.weight"], learnt["spike_in.weight"])


def test_modes_take_other_files(tmp_path):
    held_in, held_out = TASK.held_in[1], TASK.held_out[1]
    for tag, split in ((held_in, "calib"), (held_in, "minival"), (held_out, "calib")):
        (tmp_path / public_name(TASK, tag, split)).touch()
    (tmp_path / public_name(TASK, held_out, "oracle")).touch()
    taken = {
        mode: [p.name for p in chosen_files(TASK, [tmp_path], mode)]
        for mode in ("zero-shot", "few-shot", "oracle")
    }
    first = public_name(TASK, held_in, "calib")
    assert taken == {
        "zero-shot": [first],
        "few-shot": [first, public_name(TASK, held_out, "calib")],
        "oracle": [first, public_name(TASK, held_out, "oracle")],
    }
    with pytest.raises(BadInput, match="no files of FALCON h2 for few-shot"):
        chosen_files(TASK, [tmp_path / "none"], "few-shot")


def test_trials_too_short_for_their_text_and_heads_that_are_damaged_are_refused(fitted, tmp_path):
    folder, _ = fitted
    path = write_file(tmp_path / public_name(TASK, TASK.held_in[0]), TASK, 40, gap=2)
    with pytest.raises(BadInput, match=r"trial 0: 2 bins for 'so~'"):
        read_trials(TASK, path)
    decoder = TextDecoder(folder / "fit")
    with pytest.raises(BadInput, match="one recording at a time"):
        decoder.set_batch_size(2)
    with pytest.raises(BadInput, match=r"'2022\.01\.01' is no session of FALCON h2"):
        decoder.reset(["2022.01.01"])
    head = load_file(folder / "fit" / "export" / "text_head.safetensors")
    save_file({**head, "out.bias": head["out.bias"] * np.nan}, tmp_path / "text_head.safetensors")
    with pytest.raises(CheckpointCorrupt, match="not finite"):
        load_head(tmp_path, 32)
    with pytest.raises(CheckpointCorrupt, match="cannot be read"):
        load_head(tmp_path / "none", 32)
