"""Every program that users start from a folder is a verb of `ndt3`, too."""

import ast
import sys
from pathlib import Path

import pytest

from ndt3_dist import cli
from ndt3_dist.config import PROJECT

SCRIPTS = sorted(
    p for f in ("data_prep", "launch", "checkpoints") for p in (PROJECT / f).rglob("*.py")
)
WITHOUT_A_SCRIPT = {"doctor"}


def program_of(script: Path) -> list[str]:
    """The modules of `programs` whose `main` a script takes."""
    nodes = [n for n in ast.walk(ast.parse(script.read_text())) if isinstance(n, ast.ImportFrom)]
    return [str(n.module).rpartition("programs.")[2] for n in nodes if n.names[0].name == "main"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: str(p.relative_to(PROJECT)))
def test_a_script_is_a_verb_that_it_names(script):
    (module,) = program_of(script)
    verb = module.rpartition(".")[2].replace("_", "-")
    file = cli.programs()[verb].relative_to(PROJECT).as_posix()
    assert file == f"ndt3_dist/programs/{module.replace('.', '/')}.py"
    said = ast.get_docstring(ast.parse(script.read_text()))
    assert said == f"`ndt3 {verb}`, as {file} has it."


def test_a_verb_is_a_script_of_one_of_the_folders():
    modules = [module for script in SCRIPTS for module in program_of(script)]
    found = [module.rpartition(".")[2].replace("_", "-") for module in modules]
    assert sorted(found) == sorted({*cli.verbs()} - WITHOUT_A_SCRIPT)


@pytest.mark.parametrize("verb", cli.verbs())
def test_a_verb_runs_the_main_of_its_program_and_says_what_it_does(verb, monkeypatch, capsys):
    assert cli.verbs()[verb].endswith(".")
    monkeypatch.setattr(sys, "argv", ["ndt3", verb, "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: ndt3 {verb} ")


def test_a_word_that_is_no_verb_names_the_nearest(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ndt3", "preproces"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "did you mean preprocess?" in capsys.readouterr().err
