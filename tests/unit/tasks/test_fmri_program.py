"""`ndt3 fmri` as it is typed: the way from films to a score, the original's flags and files."""

import shutil
from argparse import ArgumentParser

import fmri_files as files
import h5py
import pytest
import yaml

from ndt3_dist.cluster.search.space import Space
from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.errors import BadInput, ResumeMismatch
from ndt3_dist.programs.tasks import fmri as program
from ndt3_dist.tasks.fmri import original_flags
from ndt3_dist.tasks.fmri.extract.extract_config import ExtractConfig, ModelSpec
from ndt3_dist.tasks.fmri.fmri_config import FmriConfig
from ndt3_dist.tasks.fmri.fmri_search import KIND, EncoderBase, search_to, settle


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return files.write_tree(tmp_path_factory.mktemp("fmri"))


@pytest.fixture
def typed(monkeypatch, capsys):
    """`ndt3 fmri ...` in this process; gives what it said."""

    def run(*words, **environment) -> str:
        monkeypatch.setattr("sys.argv", ["ndt3 fmri", *map(str, words)])
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        assert not program.main()  # its exit code
        return capsys.readouterr().out

    return run


def test_from_films_to_a_score(root, tmp_path, typed):
    values = files.settings(root, kind="ridge")
    (root / "c.yaml").write_text(yaml.safe_dump(values))
    told = {"FEATURES_DIR": str(root / "features"), "DATA_DIR": str(root / "none")}
    told |= {"OUTPUT_DIR": str(tmp_path / "runs")}
    words = "fit", "--config", root / "c.yaml", "--data_dir", root / "data", "--name", "r"
    said = typed(*words, "model.lags=[3]", "--seed", 3, "data.exclude=[bourne]", **told)
    assert "epochs on all clips; export at" in said
    shutil.rmtree(tmp_path / "runs" / "r" / "retrain")  # as if it was killed in between
    said = typed(*words, "model.lags=[3]", "--seed", 3, "data.exclude=[bourne]")
    assert "trained already" in said
    words = "train", "--config", root / "c.yaml", "--data_dir", root / "data", "--name", "q"
    assert "best epoch 1" in typed(*words)
    with pytest.raises(ResumeMismatch, match="the run exists"):
        typed(*words, "model.lags=[2]", "--seed", 3, "data.exclude=[bourne]")
    kept = load_config(FmriConfig, tmp_path / "runs" / "r" / "fmri.yaml")
    assert (kept.run.seed, kept.model.lags, kept.data.exclude) == (3, (3,), ("bourne",))
    assert kept.data.data_dir == str(root / "data")  # flags win
    words = "submit", "--checkpoint", "r", "--data_dir", root / "data", "--test_names", "s07"
    with pytest.raises(BadInput, match=r"expected \(\d+, 1000\) \(samples, parcels\)"):
        typed(*words)
    assert "8 clips of 4 subjects, checked" in typed(*words, "--parcels", files.PARCELS)
    npy = tmp_path / "runs" / "submissions" / "r_s07_r.npy"
    for subject, clips in files.truth_of(files.WITHHELD[:2]).items():
        path = tmp_path / "truth" / files.BOLD.format(subject[4:], "friends", "desc-s7_")
        path.parent.mkdir(parents=True)
        with h5py.File(path, "w") as file:
            for clip, bold in clips.items():
                file[f"ses-001_task-{clip}"] = bold
    (tmp_path / "parcels.txt").write_text("Vis\n" * 4 + "Default\n" * 4)
    words = "score", npy, "--data_dir", tmp_path / "truth", "--networks", tmp_path / "parcels.txt"
    said = typed(*words)
    assert float(said.split()[-1]) > 0.4
    assert "Default" in said


def test_a_run_that_is_not_there_and_unknown_flags_are_said(tmp_path, typed, capsys):
    with pytest.raises(BadInput, match="no run x, there are none in"):
        typed("retrain", OUTPUT_DIR=tmp_path, ALGONAUTS_RUN_ID="x")
    with pytest.raises(SystemExit):
        typed("train", "--featuresdir", "x")
    assert "unknown arguments: --featuresdir" in capsys.readouterr().err


def test_the_originals_names_of_programs_are_verbs(monkeypatch):
    said = []
    monkeypatch.setattr(program, "main", lambda: said.append(program.sys.argv[1:]))
    monkeypatch.setattr("sys.argv", ["algonauts-fit", "--name", "x"])
    with pytest.raises(SystemExit):
        program.algonauts_fit()
    assert said == [["fit", "--name", "x"]]


def flags(*words, environ=None):
    parser = ArgumentParser()
    original_flags.add_flags(parser)
    return original_flags.overrides(parser.parse_args(words), environ or {})


def test_the_originals_files_become_settings(tmp_path, capsys):
    (tmp_path / "features.yaml").write_text(
        "features: {b: beats/low, a: omni, unused: x}\ninput_dims: {a: 2560, b: 3072}\n"
    )
    (tmp_path / "params.yaml").write_text(
        "epochs: 15\nbatch_size: 4\nlr: 1e-4\nval_name: s06\nfilter_name: [life, figures]\n"
        "pred_layers: 2\nlambda_net_adj: 1e-4\nlambda_roi: 0\nnum_workers: 8\nlambda_mse: .03\n"
    )
    words = "--features", str(tmp_path / "features.yaml"), "--params", str(tmp_path / "params.yaml")
    found = flags(*words, environ={"DATA_DIR": "d", "FEATURES_DIR": "f", "WANDB_PROJECT": "p"})
    assert list(found["data.streams"].items()) == [("a", "omni"), ("b", "beats/low")]
    assert (found["model.kind"], found["train.window"]) == ("fusion_transformer", 0)
    assert (found["data.val"], found["data.exclude"]) == (["*s06*"], ["*life*", "*figures*"])
    assert (found["optim.lr"], found["model.mse"], found["data.data_dir"]) == (1e-4, 0.03, "d")
    assert isinstance(found["run.seed"], int)
    assert "log.wandb" not in found  # nobody is asked to log in for a variable that lies about
    assert flags("--wandb_project", "p")["log.wandb"] == "online"
    assert "lambda_net_adj have no meaning here" in capsys.readouterr().err
    assert flags(*words, "--seed", "4")["run.seed"] == 4
    (tmp_path / "features.yaml").write_text("features: {a: x}\ninput_dims: {b: 1}\n")
    with pytest.raises(BadInput, match="input_dims has b, features does not"):
        flags(*words)


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "configs/fmri").glob("*.yaml")), ids=lambda p: p.name
)
def test_every_shipped_config_of_encoders_is_valid(path):
    if path.stem == "fmri_features":
        assert load_config(ExtractConfig, path).models["whisper"].layers == (12, 25)
    else:
        assert load_config(FmriConfig, path).run.name == path.stem


def test_sound_between_windows_is_heard():
    with pytest.raises(ValueError, match="would not be heard"):
        ModelSpec.model_validate({"kind": "audio", "path": "x", "stride_s": 40})


def test_a_setting_of_a_sweep_is_a_training(root, tmp_path):
    config = FmriConfig.model_validate(files.settings(root, kind="ridge"))
    space = Space.model_validate({"method": "grid", "space": {"model.lags": [[0], [3]]}})
    base, asked = settle(config, space, "space.yaml")
    assert (base.kind, asked.metric, asked.trials) == (KIND, "val_r", 2)
    assert isinstance(base, EncoderBase)
    found = []
    for number, lags in enumerate(([0], [3])):
        own = base.config({"model.lags": lags}, "trial", name=f"t{number}", dir=str(tmp_path))
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(own.model_dump(mode="json")))
        found.append(search_to({"config": str(tmp_path / "c.yaml")}))
    assert found[1]["score"] > found[0]["score"] + 0.3
    assert search_to({"config": str(tmp_path / "c.yaml")}) == found[1]  # told again, not run again
    for space, said in (
        ({"method": "grid", "space": {"lr": [1]}}, "lr is not searched"),
        ({"method": "grid", "space": {"model.kind": ["rigde"]}}, "model.kind is 'rigde'"),
        (
            {"method": "asha", "trials": 2, "first_steps": 2, "space": {"optim.lr": [1]}},
            "needs steps",
        ),
    ):
        with pytest.raises(BadInput, match=said):
            settle(config, Space.model_validate(space), "space.yaml")
