"""What a space.yaml may say, and what is refused before anything starts."""

import pytest
import yaml

from ndt3_dist.cluster.search.base import Base, check_space, check_steps, stops, with_metric
from ndt3_dist.cluster.search.space import Domain, Space
from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.data.order import generator
from ndt3_dist.errors import BadInput

CONFIGS = PROJECT / "configs"


def base_of(name: str, *overrides: str) -> Base:
    return Base.load(CONFIGS / f"{name}.yaml", overrides)


def space_of(folder, **keys) -> Space:
    (folder / "space.yaml").write_text(yaml.safe_dump(keys))
    return load_config(Space, folder / "space.yaml")


def refused(folder, name: str, space: dict, init=None, overrides=(), **keys) -> str:
    base = base_of(name, *overrides)
    asked = space_of(folder, space=space, **{"trials": 4, **keys})
    try:
        base, asked = with_metric(base, asked)
        check_space(base, asked, init, "space.yaml")
        check_steps(base, asked)
    except BadInput as e:
        return str(e)
    return "nothing is refused"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (3, "expected a list, or one of choice, grid, uniform, loguniform, int"),
        ([], "expected a list"),
        ([1, 1], "a value twice"),
        ({"normal": [0, 1]}, "'normal'; expected choice, grid, uniform, loguniform, int"),
        ({"uniform": [1, 0]}, r"expected \[lowest, highest\]"),
        ({"uniform": [0, True]}, r"expected \[lowest, highest\]"),
        ({"int": [0.5, 2]}, "expected whole numbers"),
        ({"loguniform": [0, 1]}, "expected numbers above 0"),
    ],
)
def test_a_domain_says_what_is_wrong_with_it(tmp_path, said, message):
    with pytest.raises(BadInput, match=rf"optim\.lr.*{message}"):
        space_of(tmp_path, trials=3, space={"optim.lr": said})


def test_draws_lie_inside_and_depend_on_their_number_alone(tmp_path):
    domains = {
        "optim.lr": {"loguniform": [1e-5, 1e-2]},
        "optim.weight_decay": {"uniform": [0, 0.5]},
        "model.layers": {"int": [1, 3]},
        "train.freeze": [["spikes"], [], ["backbone", "spikes"]],
    }
    space = space_of(tmp_path, trials=200, space=domains)
    found = [space.setting(n) for n in range(200)]
    assert found[:5] == [space.setting(n) for n in range(5)]
    assert all(1e-5 <= f["optim.lr"] <= 1e-2 for f in found)
    assert 60 < sum(f["optim.lr"] < 10**-3.5 for f in found) < 140  # as many in each decade
    assert {f["model.layers"] for f in found} == {1, 2, 3}
    assert {str(f["train.freeze"]) for f in found} == {str(v) for v in domains["train.freeze"]}
    other = space.model_copy(update={"draw": 1})
    assert found[0] != other.setting(0)


def test_a_perturbed_value_lies_beside_the_other_and_inside():
    number, choice = Domain.of("k", {"int": [1, 10]}), Domain.of("k", [2, 4, 8])
    for n in range(20):
        assert number.perturbed(10, generator(n)) in (8, 10)
        assert choice.perturbed(4, generator(n)) in (2, 8)
        assert choice.perturbed(8, generator(n)) in (4, 8)


def test_a_grid_is_every_combination(tmp_path):
    lists = {"optim.lr": [1e-3, 1e-4], "train.batch": {"grid": [4, 8, 16]}}
    space = space_of(tmp_path, method="grid", space=lists)
    assert space.number == 6
    assert len({str(space.setting(n)) for n in range(6)}) == 6


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "grid", "space": {"optim.lr": {"uniform": [0, 1]}}}, "grid needs lists"),
        ({"space": {"optim.lr": [1]}}, "needs trials: N"),
        ({"space": {}, "trials": 2}, "at least one key"),
        ({"method": "asha", "trials": 2, "space": {"optim.lr": [1]}}, "first_steps"),
        ({"method": "pbt", "trials": 2, "space": {"optim.lr": [1]}}, "every_steps"),
        ({"method": "grip", "space": {"optim.lr": [1]}}, "method is 'grip'"),
        (
            {"trails": 3, "space": {"optim.lr": [1]}},
            r"key trails \(did you mean trials\?\)",
        ),
    ],
)
def test_a_space_says_what_is_wrong_with_it(tmp_path, keys, message):
    with pytest.raises(BadInput, match=message):
        space_of(tmp_path, **keys)


def test_unknown_keys_and_bad_values_are_refused_together_with_the_nearest_name(tmp_path):
    space = {
        "optim.lrr": [1e-3],
        "optm.lr": [1e-3],
        "optim.lr": {"uniform": [-1, 1]},
        "train.batch": [4, "many"],
        "optim.lr.peak": [1],
    }
    said = refused(tmp_path, "tune_demo", space)
    assert "unknown key optim.lrr (did you mean lr?)" in said
    assert "unknown key optm (did you mean optim?)" in said
    assert "optim.lr is -1" in said
    assert "train.batch is 'many'" in said
    assert "optim.lr.peak: lr is a value, not a section" in said
    assert "command line" not in said


def test_values_that_do_not_go_together_are_refused_before_anything_starts(tmp_path):
    space = {"train.global_batch": [4, 6], "train.micro_batch": [2, 4]}
    words = ["validation.every_steps=5"]
    said = refused(tmp_path, "demo", space, overrides=words, method="grid")
    assert "train.global_batch 6 is not a multiple of train.micro_batch 4" in said


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("run.seed", "--seeds K runs each setting K times"),
        ("data.val_fraction", "it decides what a score means"),
        ("data.fit", "it decides what a score means"),
        ("log.every_steps", "it changes no score"),
        ("train.objective", "it decides what a score means"),
        ("train.wise", "it is chosen when a run has ended"),
        ("model.layers", "a fine-tune's model is its export's"),
    ],
)
def test_what_is_no_hyperparameter_is_not_searched(tmp_path, key, why):
    assert f"{key} is not searched: " in (said := refused(tmp_path, "tune_demo", {key: [1]}))
    assert why in said


def test_weights_of_losses_are_not_chosen_by_the_loss_that_they_weigh(tmp_path):
    space, words = {"model.spike_weight": [1, 2]}, ["validation.every_steps=5"]
    assert "val_loss is weighted by it" in refused(tmp_path, "demo", space, overrides=words)
    base, asked = with_metric(
        base_of("demo", *words), space_of(tmp_path, trials=2, metric="val_r2", space=space)
    )
    check_space(base, asked, None, "space.yaml")
    assert (base.decides, asked.metric, asked.direction) == ("val_r2", "val_r2", "max")


def test_metrics_are_known_by_name_and_have_one_direction(tmp_path):
    lr = {"optim.lr": [1e-3]}
    assert "no 'val_r3' (did you mean val_r2?)" in refused(
        tmp_path, "tune_demo", lr, metric="val_r3"
    )
    every = ["validation.every_steps=5"]
    said = refused(tmp_path, "demo", lr, overrides=every, metric="val_r3")
    assert "validation.metric is 'val_r3'; this model has val_loss" in said
    said = refused(tmp_path, "demo", lr, overrides=every, direction="max")
    assert "direction is max; val_loss is better where it is lower" in said
    assert "validation.every_steps is 0" in refused(tmp_path, "demo", lr)


def test_without_labels_bits_per_spike_decide(tmp_path):
    lr, words = {"optim.lr": [1e-3]}, ["train.objective=spikes"]
    base, asked = with_metric(base_of("tune_demo", *words), space_of(tmp_path, trials=2, space=lr))
    assert base.decides == asked.metric == "val_bits_per_spike"
    said = refused(tmp_path, "tune_demo", lr, overrides=words, metric="val_r2")
    assert "no 'val_r2'" in said


def test_no_test_split_decides(tmp_path):
    lr = {"optim.lr": [1e-3]}
    assert "data.fit is test" in refused(tmp_path, "tune_demo", lr, overrides=["data.fit=test"])
    words = ["validation.split=test", "validation.every_steps=5"]
    assert "validation.split is test" in refused(tmp_path, "demo", lr, overrides=words)


def test_a_method_needs_steps_at_which_there_are_scores(tmp_path):
    lr, asha = {"optim.lr": [1e-3]}, {"method": "asha", "first_steps": 50}
    words = ["train.steps=120", "train.eval_every=20"]
    assert "train.eval_every is 20" in refused(tmp_path, "tune_demo", lr, overrides=words, **asha)
    words = ["train.steps=50", "train.eval_every=10"]
    said = refused(tmp_path, "tune_demo", lr, overrides=words, **asha)
    assert "train.steps is 50; method asha needs more: first_steps is 50" in said
    said = refused(tmp_path, "demo", lr, overrides=["validation.every_steps=5"], **asha)
    assert "train.max_steps is 0" in said
    pbt = {"method": "pbt", "every_steps": 10}
    said = refused(tmp_path, "tune_demo", {"train.batch": [4, 8]}, overrides=words, **pbt)
    assert "only optim.* can change while a run trains" in said
    words += ["train.patience=2"]
    assert "expected 0" in refused(tmp_path, "tune_demo", lr, overrides=words, **pbt)


def test_settings_are_looked_at_at_growing_steps_and_at_their_end():
    base, lr = base_of("tune_demo", "train.steps=100"), {"optim.lr": [1e-3, 1e-2]}
    asha = Space(method="asha", trials=3, first_steps=10, space=lr)
    assert stops(base, asha) == [10, 30, 90, 0]
    assert stops(base, Space(method="pbt", trials=3, every_steps=40, space=lr)) == [40, 80, 0]
    assert stops(base, Space(trials=3, space=lr)) == [0]
