"""Configs: precedence, honest errors, shipped files."""

from pathlib import Path

import pytest
import yaml

from ndt3_dist.config import PROJECT, find_file, import_call, load_config
from ndt3_dist.errors import BadInput
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.tasks.words.foreign_yaml import read_stages
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.tune.tune_config import TuneConfig

DEMO = PROJECT / "configs" / "demo.yaml"


def test_command_line_wins_over_the_file():
    config = load_config(PretrainConfig, DEMO, ["optim.lr=3e-4", "train.max_steps=7"])
    assert config.optim.lr == 3e-4
    assert config.train.max_steps == 7


def test_numbers_in_exponent_notation_are_numbers_in_a_file(tmp_path):
    values = yaml.safe_load(DEMO.read_text())
    values["optim"]["lr"] = "1e-4"  # YAML 1.1 reads 1e-4 as text
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    assert load_config(PretrainConfig, tmp_path / "c.yaml").optim.lr == 1e-4


@pytest.mark.parametrize("name", ["12e4567", "3e4", "007", "1_000", "0x1F", "2026-11-27", "no"])
def test_a_name_stays_the_text_that_was_typed(name, tmp_path):
    assert load_config(PretrainConfig, DEMO, [f"run.name={name}"]).run.name == name
    values = yaml.safe_load(DEMO.read_text())
    values["run"]["name"] = "NAME"
    for written in (name, f"'{name}'"):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(values).replace("NAME", written))
        found = load_config(PretrainConfig, tmp_path / "c.yaml")
        assert found.run.name == name
        kept = yaml.safe_dump(found.model_dump(mode="json"))  # as a run keeps it
        (tmp_path / "kept.yaml").write_text(kept)
        assert load_config(PretrainConfig, tmp_path / "kept.yaml") == found


def test_numbers_inside_of_lists_and_free_sections_are_plain():
    config = load_config(
        PretrainConfig, DEMO, ["model={build: 'lab.m:build', width: 3e2, x: [1]}", "optim.lr=1e-4"]
    )
    assert type(config.optim.lr) is float
    extra = config.model.model_extra or {}
    assert (extra, type(extra["width"]), type(extra["x"][0])) == (
        {"width": 300.0, "x": [1]},
        float,
        int,
    )


def test_a_key_of_an_earlier_name_still_works():
    for key in ("on_leap", "on_spike"):
        assert load_config(PretrainConfig, DEMO, [f"train.{key}=skip"]).train.on_leap == "skip"


def test_an_unknown_key_names_the_nearest_one():
    with pytest.raises(BadInput, match=r"unknown key optim\.learning_rat.*|did you mean"):
        load_config(PretrainConfig, DEMO, ["optim.warmup_epoch=3"])
    with pytest.raises(BadInput, match="did you mean warmup_epochs"):
        load_config(PretrainConfig, DEMO, ["optim.warmup_epoch=3"])


def test_every_problem_is_reported_at_once():
    with pytest.raises(BadInput) as e:
        load_config(PretrainConfig, DEMO, ["train.epochs=many", "optim.lr=-1", "modl.dim=3"])
    message = str(e.value)
    assert "train.epochs is 'many'" in message
    assert "optim.lr is -1" in message
    assert "unknown key modl" in message
    assert "did you mean model?" in message


def test_inconsistent_values_are_refused():
    with pytest.raises(BadInput, match="not a multiple"):
        load_config(PretrainConfig, DEMO, ["train.global_batch=3", "train.micro_batch=2"])
    with pytest.raises(BadInput, match="use stage 1"):
        load_config(PretrainConfig, DEMO, ["train.zero_stage=0"])
    with pytest.raises(BadInput, match="dim 96 is not a multiple of heads"):
        load_config(PretrainConfig, DEMO, ["model.heads=5"])


def test_a_missing_file_names_what_there_is():
    with pytest.raises(BadInput, match=r"nearest: demo\.yaml"):
        find_file("dmo.yaml", "configs")
    with pytest.raises(BadInput, match="no file"):
        find_file("/nowhere/x.yaml", "configs")


def test_a_file_that_is_not_yaml_is_named(tmp_path):
    (tmp_path / "c.yaml").write_text("run: [")
    with pytest.raises(BadInput, match=r"c\.yaml: not valid YAML"):
        load_config(PretrainConfig, tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("schema", "keys"), [(Recipe, "dataset: ..."), (PretrainConfig, "run: ..., data: ..., model")]
)
def test_a_file_without_keys_is_called_so(tmp_path, schema, keys):
    for text, found in (("", "is empty"), ("# soon", "is empty"), ("- a", r"is \"\['a'\]\"")):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(BadInput, match=rf"c\.yaml: {found}; expected keys, at least {keys}"):
            load_config(schema, tmp_path / "c.yaml", ["dataset=a"])


def test_a_wrong_value_is_blamed_on_the_file_or_the_command_line_that_said_it(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("dataset: a\nshard_mb: -1\ncovariates: {quantile: 3}\n")

    def said(*overrides: str) -> str:
        with pytest.raises(BadInput) as e:
            load_config(Recipe, path, overrides)
        return str(e.value).replace(str(path), "FILE")

    assert said("bin_size_ms=fast").startswith("command line: bin_size_ms is 'fast'")
    assert "FILE: covariates.quantile is 3" in said("bin_size_ms=fast", "covariates.max_gap_ms=9")
    assert "FILE: covariates.quantile is 3" not in said("covariates.quantile=2")
    assert "command line: covariates.quantile is 2" in said("covariates.quantile=2")
    assert "command line: covariates.quantile is 4" in said("covariates={quantile: 4}")
    assert "command line: unknown key bin_size" in said("bin_size=20")
    assert said("dataset.x=1") == "command line: dataset.x: dataset is a value, not a section"
    whole = "shard_mb=4", "covariates.quantile=1"
    assert said(*whole, "window_ms=30").startswith("FILE and the command line: window_ms 30 is not")
    path.write_text("dataset: a\nwindow_ms: 30\n")
    with pytest.raises(BadInput, match=r"r\.yaml: window_ms 30 is not"):
        load_config(Recipe, path)
    with pytest.raises(BadInput, match=r"command line: optim\.lr is -1"):
        load_config(PretrainConfig, DEMO, ["optim.lr=-1"])


@pytest.mark.parametrize("path", sorted((PROJECT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_config_is_whole_and_valid(path: Path):
    values = yaml.safe_load(path.read_text())
    if path.name.startswith("words_"):
        assert read_stages(path)
        return
    schema = TuneConfig if "steps" in values["train"] else PretrainConfig
    load_config(schema, path)


@pytest.mark.parametrize(
    ("name", "overrides", "parameters"),
    [
        ("base_45m_200h.yaml", [], 44_919_649),
        ("big_350m_2kh.yaml", [], 354_165_761),
        ("big_350m_2kh.yaml", ["model.layers=24"], 706_662_401),  # upstream's 700M
    ],
)
def test_published_sizes_have_the_published_number_of_parameters(name, overrides, parameters):
    import torch

    from ndt3_dist.model.ndt3 import NDT3

    config = load_config(PretrainConfig, PROJECT / "configs" / name, overrides)
    with torch.device("meta"):
        model = NDT3(config.model)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("lab.py", "model.build: 'lab.py' is no import path; expected package.module:function"),
        ("lab:build:x", "is no import path"),
        ("../lab:build", "is no import path"),
        ("no_such_lab.model:build", "no_such_lab.model cannot be imported"),
        ("math:tau", "math has no function tau"),
        ("math:squirt", "math has no function squirt"),
    ],
)
def test_an_import_path_that_leads_nowhere_is_named_with_its_key(path, words):
    with pytest.raises(BadInput) as e:
        import_call(path, "model.build")
    assert words in str(e.value)
    assert import_call("math:sqrt", "model.build")(4) == 2


@pytest.mark.parametrize(
    ("build", "words"),
    [
        ("torch.nn:Identity", "Identity without targets, packing, batch"),
        ("builtins:dict", "gave dict without"),
    ],
)
def test_what_is_no_model_is_refused_before_anything_runs(build, words):
    from ndt3_dist.train.initial import build_model

    config = load_config(PretrainConfig, DEMO, [f"model={{build: '{build}'}}"])
    with pytest.raises(BadInput, match=words):
        build_model(config.model)
    with pytest.raises(BadInput, match=f"model.build is {build}; expected NDT3 here"):
        _ = config.ndt3


def test_configs_are_frozen():
    model = ModelConfig(layers=1, dim=64, heads=2, feedforward=64)
    with pytest.raises(ValueError, match="frozen"):
        model.layers = 2  # type: ignore[misc]


def test_arguments_of_a_call_keep_their_numbers(tmp_path):
    """Their types are the function's business: `limit: 5` is a number, in a field for text too."""
    (tmp_path / "r.yaml").write_text(
        "dataset: 007\npreprocess:\n  - {call: lab:cut, limit: 5, share: 1e-3, name: a1}\n"
    )
    recipe = load_config(Recipe, tmp_path / "r.yaml", [])
    assert recipe.dataset == "007"
    assert recipe.preprocess == [{"call": "lab:cut", "limit": 5, "share": 0.001, "name": "a1"}]


def test_a_key_that_is_there_twice_is_refused_by_name_and_line(tmp_path):
    (tmp_path / "r.yaml").write_text("dataset: a\nsource: b\ndataset: c\n")
    with pytest.raises(BadInput, match=r"(?s)key 'dataset' is there twice.*line 3"):
        load_config(Recipe, tmp_path / "r.yaml", [])
    (tmp_path / "r.yaml").write_text("dataset: a\nspikes:\n  kind: units\n  kind: events\n")
    with pytest.raises(BadInput, match=r"(?s)key 'kind' is there twice.*line 4"):
        load_config(Recipe, tmp_path / "r.yaml", [])
    (tmp_path / "c.yaml").write_text(DEMO.read_text() + "\nrun: {name: again}\n")
    with pytest.raises(BadInput, match="key 'run' is there twice"):
        load_config(PretrainConfig, tmp_path / "c.yaml")
    for override in ("covariates={path: a, path: b}", "splits=[{match: a, match: b}]"):
        key = override.partition("=")[0]
        with pytest.raises(BadInput, match=f"^command line: {key}: key '[a-z]*' is there twice$"):
            load_config(Recipe, PROJECT / "data_prep" / "recipes" / "nwb.yaml", [override])
    (tmp_path / "r.yaml").write_text("dataset: " + "9" * 5000)
    with pytest.raises(BadInput, match="a number of 5000 digits"):
        load_config(Recipe, tmp_path / "r.yaml", [])


def test_of_two_values_on_the_command_line_the_later_wins_and_brackets_may_be_text():
    nwb_yaml = PROJECT / "data_prep" / "recipes" / "nwb.yaml"
    assert load_config(Recipe, nwb_yaml, ["dataset=a", "dataset=b"]).dataset == "b"
    assert load_config(Recipe, nwb_yaml, ["pattern=[ab]*.nwb"]).pattern == "[ab]*.nwb"


@pytest.mark.parametrize(("file", "typed"), [("on_spike", "on_leap"), ("on_leap", "on_spike")])
def test_of_an_earlier_name_and_the_new_one_the_command_line_wins(tmp_path, file, typed):
    text = (PROJECT / "configs" / "demo.yaml").read_text()
    (tmp_path / "d.yaml").write_text(text.replace("  on_leap: warn", f"  {file}: warn"))
    config = load_config(PretrainConfig, tmp_path / "d.yaml", [f"train.{typed}=skip"])
    assert config.train.on_leap == "skip"
