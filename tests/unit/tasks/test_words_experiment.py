"""Experiments on a story of two subjects: what is planted is found, and nothing else is."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
import yaml

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.words import cell as cells
from ndt3_dist.tasks.words import frozen, lag_features, run_stages
from ndt3_dist.tasks.words.decoders import conv_decoder, fit_decoder, word_losses
from ndt3_dist.tasks.words.foreign_yaml import read_stages
from ndt3_dist.tasks.words.run_stages import run
from ndt3_dist.tasks.words.simulated_story import write_story
from ndt3_dist.tasks.words.word_config import TrainingParams

BINS = {"preprocessing_fn_name": "window_average_neural_data"}
BINS |= {"preprocessor_params": {"num_average_samples": 32}}


def write_yaml(path, values):
    path.write_text(yaml.safe_dump(values))
    return path


def config(story, out, **more):
    """The later generation's form, small."""
    training = {"epochs": 12, "learning_rate": 0.003, "n_folds": 3, "permutations": 50}
    values = {
        "trial_name": "t",
        "output_dir": str(out),
        "checkpoint_dir": str(out / "checkpoints"),
        "task_config": {
            "task_name": "word_embedding_decoding_task",
            "data_params": {"data_root": str(story), **BINS},
            "task_specific_config": {"embedding_type": "glove"},
        },
        "model_spec": {"constructor_name": "pitom_model", "params": {"conv_filters": 32}},
        "training_params": {**training, "early_stopping_patience": 6, **more},
    }
    return values


def table(folder):
    with (folder / "lag_performance.csv").open() as file:
        return {int(row["lags"]): row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A story of 120 s decoded at -600 and 300 ms; the folder of the results."""
    out = tmp_path_factory.mktemp("planted")
    write_story(out / "story")
    values = config(out / "story", out, min_lag=-600, max_lag=300, lag_step_size=900)
    values["model_spec"]["params"]["conv_filters"] = 64
    (folder,) = run(read_stages(write_yaml(out / "c.yaml", values)), workers=0)
    return folder


def test_a_response_is_found_where_it_was_planted_and_nowhere_else(planted):
    found = {lag: {k: float(v) for k, v in row.items() if v} for lag, row in table(planted).items()}
    assert sorted(found) == [-600, 300]  # the last one included
    assert found[300]["test_ridge_pairwise_accuracy_mean"] > 0.9
    assert found[300]["test_pairwise_accuracy_mean"] > 0.85
    assert found[-600]["test_ridge_pairwise_accuracy_mean"] == pytest.approx(0.5, abs=0.06)
    assert found[300]["p_corrected"] < 0.05 < found[-600]["p_corrected"]
    for lag in found:  # what has seen nothing is at chance, and its cosine need not be
        assert found[lag]["test_mean_pairwise_accuracy_mean"] == pytest.approx(0.5, abs=0.03)
        assert found[lag]["test_shuffled_pairwise_accuracy_mean"] == pytest.approx(0.5, abs=0.06)


def test_the_table_has_the_benchmarks_columns_and_each_folds(planted):
    columns = table(planted)[300]
    for name in ("train_mse", "val_cosine_sim", "test_nll_embedding", "test_word_avg_auc_roc"):
        assert {f"{name}_mean", f"{name}_std", f"{name}_fold_3"} <= columns.keys()
    for name in ("num_epochs", "test_word_top_10", "test_occurence_perplexity", "test_r2"):
        assert f"{name}_mean" in columns
    folds = [float(columns[f"test_mse_fold_{k}"]) for k in (1, 2, 3)]
    assert float(columns["test_mse_std"]) == pytest.approx(np.std(folds))


def test_predictions_of_every_test_word_make_the_scores_again(planted):
    with np.load(planted / "predictions/lag_300.npz") as held:
        words, fold = held["word"], held["fold"]
        assert len(words) == len(np.unique(held["start"]))  # each word once
        mine = fold == 2
        from ndt3_dist.tasks.words.scores.embedding_scores import pairwise_accuracy

        found = pairwise_accuracy(held["predicted_model"][mine], held["true"][mine])
    stored = json.loads((planted / "cells/lag_300_fold2_seed42.json").read_text())
    assert found == pytest.approx(stored["scores"]["test"]["pairwise_accuracy"])


def test_a_page_and_pictures_show_it(planted):
    page = (planted / "report.html").read_text()
    assert "Scores over lag" in page
    assert "chance" in page
    assert "shuffled words" in page
    assert (planted / "score_over_lag.png").stat().st_size > 5000
    assert (planted / "electrodes.png").stat().st_size > 5000


@pytest.fixture
def plain(monkeypatch):
    """Without pages and pictures."""
    monkeypatch.setattr(run_stages, "write_page", lambda *_: None)


@pytest.fixture
def small(story, corpus, tmp_path, plain):
    """A config of one lag on the shared corpus, as (values, run)."""
    values = config(story, tmp_path, lag=300, epochs=2)
    values["task_config"]["data_params"]["corpus"] = corpus

    def go(*overrides):
        return run(read_stages(write_yaml(tmp_path / "c.yaml", values), overrides), workers=0)[-1]

    return values, go


def test_a_killed_experiment_goes_on_cell_by_cell_to_the_same_bytes(small, monkeypatch):
    _, go = small
    whole, real, done = go("trial_name=whole"), cells.scored, []

    def killed(*args):
        if done:
            raise KeyboardInterrupt
        done.append(args[-1])
        return real(*args)

    monkeypatch.setattr(cells, "scored", killed)
    with pytest.raises(KeyboardInterrupt):
        go()
    folder = whole.parent / "t"
    (kept,) = (folder / "cells").glob("*.json")
    before = kept.stat().st_mtime_ns
    monkeypatch.setattr(cells, "scored", real)
    go()
    assert kept.stat().st_mtime_ns == before
    for name in ("lag_performance.csv", "cells/lag_300_fold2_seed42.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    with pytest.raises(BadInput, match="has results of another config"):
        go("--training_params.learning_rate=0.5")


def test_pca_and_standardising_see_training_words_alone(small):
    _, go = small
    folder = go("task_config.task_specific_config.embedding_pca_dim=3")
    stage, examples = cells.load_stage(folder), cells.load_examples(folder / "examples.npz")
    part = cells.folds_of(stage, examples)[0]
    x = np.load(folder / "features/lag_300.npy")
    made = cells.fitted(stage, x, examples, part.train)
    assert made.y.shape[1] == 3
    assert made.x[part.train].mean(0) == pytest.approx(0, abs=1e-5)
    others = np.setdiff1d(np.arange(len(x)), part.train)
    x[others] *= 100
    examples.target[others] += 50 * np.arange(10)
    again = cells.fitted(stage, x, examples, part.train)
    assert (again.y[part.train] == made.y[part.train]).all()
    assert (again.x[part.train] == made.x[part.train]).all()


@pytest.mark.parametrize(
    ("task", "score", "activation"),
    [
        ("pos_task", "roc_auc_multiclass", "softmax"),
        ("content_noncontent_task", "roc_auc", "sigmoid"),
        ("content_noncontent_task", "roc_auc", "linear"),
    ],
)
def test_classes_are_decoded_from_probabilities_and_from_logits(small, task, score, activation):
    values, go = small
    values["task_config"]["task_name"] = task
    values["task_config"]["task_specific_config"] = {}
    values["model_spec"]["params"]["output_activation"] = activation
    row = table(go(f"training_params.early_stopping_metric={score}"))[300]
    assert {f"test_{score}_mean", f"test_logistic_{score}_mean", "p_corrected"} <= row.keys()
    assert 0 <= float(row["test_f1_mean"]) <= 1


def test_a_number_is_decoded_with_a_plateau_schedule_and_other_losses(small):
    values, go = small
    values["task_config"]["task_name"] = "gpt_surprise_task"
    values["task_config"]["task_specific_config"] = {}
    values["training_params"] |= {"use_lr_scheduler": True, "normalize_targets": True}
    values["training_params"] |= {"scheduler_params": {"factor": 0.5, "min_lr": "1e-6"}}
    assert "test_corr_mean" in table(go())[300]


PLUG_INS = '''
"""Code as it is written for the podcast benchmark."""
import numpy as np
import torch
from ndt3_dist.tasks.words import registry

seen = []


@registry.register_model_constructor()
def lab_model(model_params):
    sizes = model_params["input_channels"] * model_params["input_timesteps"]
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(sizes, model_params["dim"]))


@registry.register_data_preprocessor("halves")
def lab_preprocessor(data, preprocessor_params):
    seen.append(data.shape)
    n = preprocessor_params["parts"]
    return data.reshape(*data.shape[:2], n, -1).mean(-1)


@registry.register_config_setter("lab_setter")
def early_setter(experiment_config, raws, df_word, word_embeddings):
    experiment_config.model_params["input_channels"] = sum(len(raw.ch_names) for raw in raws)
    experiment_config.model_params["dim"] = word_embeddings.shape[1]
    assert raws[0].info["sfreq"] == 512 and len(df_word) == len(word_embeddings)
    return experiment_config


def later_setter(cfg, raws, task_df):
    cfg.model_spec.params["input_timesteps"] = np.int64(8)
    assert cfg.task_config.data_params.window_width == 0.5
    cfg.training_params.batch_size = 16
    return cfg


@registry.register_metric()
def lab_metric(predicted, groundtruth):
    return (predicted - groundtruth).abs().mean()


@registry.register_task_data_getter()
def lab_task(task_config):
    import pandas as pd
    onsets = np.arange(3.0, 36.0, 0.7)
    return pd.DataFrame({"start": onsets, "target": np.sin(onsets)})
'''

EARLY = {
    "model_constructor_name": "lab_model",
    "model_params": {"input_timesteps": 8},
    "config_setter_name": "lab_setter",
    "data_params": {
        "embedding_type": "glove",
        "window_width": 0.5,
        "preprocessing_fn_name": "halves",
        "preprocessor_params": {"parts": 8},
        "subject_ids": [1, 2],
        "channel_reg_ex": "^G([1-9])$",
    },
    "training_params": {
        "epochs": 2,
        "n_folds": 2,
        "min_lag": 0,
        "max_lag": 200,
        "lag_step_size": 200,
    },
    "trial_name": "early",
}
LATER = {
    "model_spec": {
        "constructor_name": "lab_words:lab_model",
        "params": {"dim": 10},
        "sub_models": {},
    },
    "config_setter_name": ["lab_words:early_setter", "lab_words:later_setter"],
    "task_config": {
        "task_name": "word_embedding_decoding_task",
        "data_params": {
            "window_width": 0.5,
            "preprocessing_fn_name": ["lab_words:lab_preprocessor"],
            "preprocessor_params": [{"parts": 8}],
        },
        "task_specific_config": {"embedding_type": "glove", "embedding_pca_dim": None},
    },
    "training_params": {
        "epochs": 2,
        "n_folds": 2,
        "lag": 200,
        "metrics": ["lab_words:lab_metric", "cosine_sim"],
        "early_stopping_metric": "lab_words:lab_metric",
        "smaller_is_better": True,
    },
    "trial_name": "later_{}",
    "format_fields": ["training_params.lag"],
}


@pytest.fixture
def lab(tmp_path, monkeypatch, plain):
    """A folder of plug-ins that can be imported."""
    (tmp_path / "lab_words.py").write_text(PLUG_INS)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("lab_words", None)
    yield tmp_path
    sys.modules.pop("lab_words", None)


def run_lab(lab, values, story, corpus, *overrides):
    where = "data_params" if "data_params" in values else "task_config.data_params"
    told = [f"{where}.data_root={story}", f"--{where}.corpus={corpus}", f"output_dir={lab}"]
    told += [f"checkpoint_dir={lab / 'checkpoints'}", "training_params.permutations=0", *overrides]
    return run(read_stages(write_yaml(lab / "c.yaml", values), told), workers=0)[-1]


def test_a_folder_of_the_earlier_generation_runs_by_its_modules_name(lab, story, corpus):
    values = json.loads(json.dumps(EARLY))
    folder = run_lab(lab, values, story, corpus, "plugins=[lab_words]")
    assert sorted(table(folder)) == [0, 200]
    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert resolved["model_spec"]["params"] == {
        "input_timesteps": 8,
        "input_channels": 16,
        "dim": 10,
    }
    import lab_words  # pyright: ignore[reportMissingImports]

    assert lab_words.seen[0][1:] == (16, 256)  # all words at once, (words, electrodes, time)
    assert lab_words.seen[0][0] > 40


def test_a_folder_of_the_later_generation_runs_by_import_paths(lab, story, corpus):
    values = json.loads(json.dumps(LATER))
    folder = run_lab(lab, values, story, corpus)
    assert folder.name == "later_200"
    assert float(table(folder)[200]["val_lab_metric_mean"]) > 0
    assert (
        yaml.safe_load((folder / "config.yaml").read_text())["training_params"]["batch_size"] == 16
    )


def test_a_task_of_ones_own_is_a_table(lab, story, corpus):
    values = json.loads(json.dumps(LATER))
    values["task_config"]["task_name"] = "lab_words:lab_task"
    values["task_config"]["task_specific_config"] = {}
    values["model_spec"] = {"constructor_name": "torch_ridge_model"}
    values["config_setter_name"] = None
    values["training_params"]["early_stopping_metric"] = "corr"
    assert "test_corr_mean" in table(run_lab(lab, values, story, corpus))[200]


def test_stages_hand_their_weights_on(lab, story, corpus):
    first = json.loads(json.dumps(LATER))
    first |= {"trial_name": "first", "format_fields": None}
    second = json.loads(json.dumps(first)) | {"trial_name": "second"}
    second["model_spec"]["checkpoint_path"] = (
        "{prev_checkpoint_dir}/lag_{lag}/best_model_fold{fold}.pt"
    )
    second["training_params"]["learning_rate"] = 1e-12
    second["training_params"]["weight_decay"] = 0.0
    shared = {"training_params.epochs": 1, "training_params.permutations": 0}
    for stage in (first, second):
        stage["task_config"]["data_params"] |= {"data_root": str(story), "corpus": corpus}
        stage |= {"output_dir": str(lab), "checkpoint_dir": str(lab / "c")}
    path = write_yaml(lab / "m.yaml", {"tasks": [first, second], "shared_params": shared})
    one, two = run(read_stages(path, ["--tasks.0.training_params.learning_rate=0.01"]), workers=0)
    name = "test_pairwise_accuracy_mean"
    assert table(one)[200][name] == table(two)[200][name]
    assert yaml.safe_load((one / "config.yaml").read_text())["training_params"]["epochs"] == 1


def test_configs_that_cannot_be_are_said(tmp_path, story):
    def refused(message, *overrides, **values):
        path = write_yaml(tmp_path / "c.yaml", {"trial_name": "x", **values})
        with pytest.raises(BadInput, match=message):
            read_stages(path, overrides)

    refused("unknown key training_params.epoch .did you mean epochs", "training_params.epoch=3")
    refused("2 is less than the window", "training_params.purge_gap_s=0.2")
    refused("not an override", "--fast")
    refused("0 is none of 0 to -1", "--tasks.0.trial_name=y", tasks=[])
    refused("beside tasks", tasks=[{}], shared_params={})


def test_the_convolutional_decoder_has_the_published_size():
    params = {"input_channels": 183, "input_timesteps": 10, "embedding_dim": 50}
    model = conv_decoder.pitom_model(params)
    assert sum(p.numel() for p in model.parameters()) == 143_254
    ensemble = conv_decoder.ensemble_pitom_model({**params, "num_models": 3}).eval()
    x = torch.randn(4, 183, 10)
    members = ensemble(x, preserve_ensemble=True)
    assert members.shape == (4, 3, 50)
    assert torch.allclose(ensemble(x), members.mean(1), atol=1e-6)
    with pytest.raises(BadInput, match="needs 5 steps"):
        conv_decoder.pitom_model({**params, "input_timesteps": 4})


def test_no_loss_takes_a_softmax_twice():
    logits, labels = torch.randn(20, 5), torch.arange(20) % 5
    plain = torch.nn.functional.cross_entropy(logits, labels)
    for loss in (word_losses.cross_entropy, word_losses.weighted_cross_entropy):
        assert loss(logits, labels) == pytest.approx(float(plain))
        assert loss(logits.softmax(-1), labels) == pytest.approx(float(plain), rel=1e-5)


def test_early_stopping_scores_all_validation_words_at_once():
    scored, model = [], torch.nn.Linear(3, 1)
    inputs, target = {"x": torch.randn(90, 3)}, torch.randn(90)

    def score(outputs):
        scored.append(outputs.shape)
        return -len(scored) if len(scored) > 1 else 0.0

    asked = TrainingParams(
        epochs=50, early_stopping_patience=3, batch_size=8, lr_scheduler="cosine_annealing"
    )
    loss = word_losses.total([word_losses.mse], [1.0])
    rows = np.arange(90)
    found = fit_decoder.fit(
        model, inputs, target, rows[:41], rows[41:], loss, score, True, asked, 0
    )
    assert set(scored) == {(49,)}
    assert (found.epoch, found.epochs) == (0, 4)
    assert all(len(b) > 1 for b in fit_decoder.batches_of(rows[:41], 8, 0, 0))


def test_preprocessing_of_ours_takes_words_in_blocks(story, corpus, tmp_path, monkeypatch):
    values = config(story, tmp_path, lag=0)
    values["task_config"]["data_params"]["corpus"] = corpus
    (stage,) = read_stages(write_yaml(tmp_path / "c.yaml", values))
    from ndt3_dist.tasks.words.prepare_words import series_of

    series, starts = series_of(stage, corpus, tmp_path), np.arange(2.0, 30, 0.5)
    lag_features.make_features(stage, series, starts, 0, tmp_path / "one.npy")
    monkeypatch.setattr(lag_features, "BLOCK_BYTES", 200_000)
    sizes, real = [], lag_features.windows
    monkeypatch.setattr(
        lag_features, "windows", lambda s, a, *rest: (sizes.append(len(a)), real(s, a, *rest))[1]
    )
    lag_features.make_features(stage, series, starts, 0, tmp_path / "two.npy")
    assert max(sizes) < 10
    assert (np.load(tmp_path / "one.npy") == np.load(tmp_path / "two.npy")).all()
    assert np.load(tmp_path / "one.npy").shape == (56, 18, 10)


@pytest.fixture
def export(tmp_path):
    """A small NDT3, as exports hold it."""
    from safetensors.torch import save_file

    from ndt3_dist.model.load import FORMAT, VERSION
    from ndt3_dist.model.ndt3 import build

    torch.manual_seed(0)
    options = {"layers": 2, "dim": 32, "heads": 2, "feedforward": 64}
    model = build(options)
    folder = tmp_path / "export"
    folder.mkdir()
    told = {"format": FORMAT, "version": VERSION, "model": model.config.model_dump(mode="json")}
    (folder / "config.json").write_text(json.dumps(told))
    save_file({n: p.detach() for n, p in model.named_parameters()}, folder / "model.safetensors")
    return folder


def test_features_of_a_frozen_ndt3_are_computed_once_for_each_recording_and_lag(
    small, export, monkeypatch
):
    values, go = small
    values["task_config"]["data_params"] |= dict.fromkeys(BINS)
    values["model_spec"] = {
        "constructor_name": "decoder_mlp",
        "encoder": {"call": "ndt3", "checkpoint": str(export), "steps": 5},
    }
    calls, real = [], frozen.encode_ndt3
    monkeypatch.setitem(frozen.ENCODERS, "ndt3", lambda *a: (calls.append(a[0].shape), real(*a))[1])
    folder = go()
    x = np.load(folder / "features/lag_300.npy")
    assert x.shape[1:] == (2 * 32, 5)  # two recordings side by side
    assert [shape[1:] for shape in calls] == [(11, 320), (7, 320)]
    assert "test_ridge_pairwise_accuracy_mean" in table(folder)[300]
    go("trial_name=again")
    assert len(calls) == 2
    weights = export / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x3f")
    go("trial_name=other_weights")
    assert len(calls) == 4


def test_counts_of_a_signal_follow_its_own_window_alone():
    data = np.random.default_rng(0).normal(size=(3, 2, 320))
    found = frozen.as_counts(data, 512, 20)
    assert found.shape == (3, 31, 2)
    assert found.dtype == np.uint8
    assert (frozen.as_counts(data[1:2] * 7 + 100, 512, 20) == found[1:2]).all()


def test_the_program_shows_how_a_config_is_understood(tmp_path, monkeypatch, capsys):
    from ndt3_dist.programs.tasks.words import main

    path = write_yaml(tmp_path / "early.yml", EARLY)
    told = ["words", "show", "--config", str(path), "--training_params.max_lag=600"]
    monkeypatch.setattr(sys, "argv", told)
    main()
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["model_spec"]["constructor_name"] == "lab_model"
    assert found["task_config"]["task_specific_config"] == {"embedding_type": "glove"}
    assert found["training_params"]["max_lag"] == 600
    monkeypatch.setattr(sys, "argv", ["words", "run", "--config", str(path), "--workers", "two"])
    with pytest.raises(BadInput, match="--workers two: expected auto"):
        main()
    monkeypatch.setattr(sys, "argv", [*told, "--fast"])
    with pytest.raises(SystemExit):
        main()
