"""An installed wheel has every program, config and recipe; nothing looks for a checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig

import pytest

from ndt3_dist.cli import verbs
from ndt3_dist.config import PROJECT


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs a command of a fresh venv that has the wheel, in an empty folder.

    What ndt3_dist depends on is seen through PYTHONPATH, which heeds no .pth file: so the checkout
    that is installed beside it is not there.
    """
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = folder / "source"  # as a clone has it, without what builds have left
    for name in ("ndt3_dist", "configs", "data_prep", "docker"):
        shutil.copytree(PROJECT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    kept = ["--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run([*pip, "wheel", *kept], check=True)
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (wheel,) = folder.glob("*.whl")
    at = ["--python", str(venv / "bin" / "python")]
    subprocess.run([*pip, *at, "install", "--no-deps", str(wheel)], check=True)
    (folder / "empty").mkdir()
    env = {**os.environ, "PYTHONPATH": sysconfig.get_paths()["purelib"]}
    env["PATH"] = f"{venv / 'bin'}:{os.environ['PATH']}"

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=folder / "empty", env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    code = "import ndt3_dist, ndt3_dist.config as c; print(ndt3_dist.__file__, c.PROJECT)"
    assert str(PROJECT) not in run("python", "-c", code)
    return run


def test_it_has_every_verb(installed):
    listed = installed("ndt3")
    for verb in verbs():
        assert f"  {verb} " in listed
        help_ = installed("ndt3", verb, "--help")
        assert help_.startswith(f"usage: ndt3 {verb} "), help_[:200]
    assert installed("ndt3", "--version").startswith("ndt3_dist ")


def test_it_has_every_config_and_recipe(installed):
    ours = {p.name for f in ("configs", "data_prep/recipes") for p in (PROJECT / f).glob("*.yaml")}
    code = (
        "from ndt3_dist.config import shipped\n"
        "print(*(p.name for f in ('configs', 'data_prep/recipes') for p in shipped(f).glob('*')))"
    )
    assert ours <= {*installed("python", "-c", code).split()}
    shown = installed("ndt3", "pretrain", "--config", "big_350m_2kh.yaml", "--print-config")
    assert "layers: 12" in shown


def test_it_has_the_image_of_a_submission(installed):
    code = "from ndt3_dist.tasks.falcon.submission import dockerfile; print(dockerfile())"
    assert "site-packages/ndt3_dist/docker" in installed("python", "-c", code)


def test_it_has_the_script_of_the_board(installed):
    code = "from ndt3_dist.cluster.board.server import SCRIPT; print(SCRIPT.read_text())"
    assert "use strict" in installed("python", "-c", code)


def test_the_launcher_finds_the_program(installed):
    command = ["--num_accelerators", "1", "--module", "ndt3_dist.programs.pretrain"]
    shown = installed("python", "-m", "deepspeed.launcher.runner", *command, "--help")
    assert "Example" in shown


def test_a_program_calls_others_from_any_folder(installed):
    code = (
        "import subprocess\n"
        "from ndt3_dist.programs._stages import launched, program, stage\n"
        "stage('look', [*program('finetune'), '--help'], [*program('preprocess'), '--help'])\n"
        "print(subprocess.check_output([*launched('pretrain', 1), '--help'], text=True))"
    )
    shown = installed("python", "-c", code)
    assert "usage: finetune.py" in shown
    assert "usage: preprocess.py" in shown
    assert "Example" in shown


def test_the_demo_works_in_the_folder_that_it_is_called_from(installed):
    code = (
        "import sys\nfrom pathlib import Path\nfrom ndt3_dist.programs import demo\n"
        "Path('mine.nwb').write_bytes(b'no recording')\n"
        "sys.argv = ['ndt3 demo', '--recordings', 'mine.nwb']\n"
        "try:\n    demo.main()\nexcept Exception as e:\n    print(type(e).__name__, e)\n"
        "print(Path('corpora/demo').is_dir(), Path.cwd().name)"
    )
    shown = installed("python", "-c", code)
    assert "stage preprocess failed" in shown
    assert shown.endswith("True empty\n")
