"""`ndt3 VERB ...`: the programs of this project by one name, each a file below `programs/`.

`ndt3 pretrain` starts one process; several need `deepspeed launch/pretrain.py`, or without a
checkout `deepspeed --module ndt3_dist.programs.pretrain`.
"""

import ast
import difflib
import importlib
import sys
from pathlib import Path

from ndt3_dist import log

FOLDER = Path(__file__).parent / "programs"


def programs() -> dict[str, Path]:
    """Verb -> its file, in order of name."""
    files = {file.stem.replace("_", "-"): file for file in FOLDER.rglob("[!_]*.py")}
    return dict(sorted(files.items()))


def verbs() -> dict[str, str]:
    """Verb -> the first line of its program's docstring, in order of name; nothing is imported."""
    texts = {v: ast.get_docstring(ast.parse(f.read_text())) for v, f in programs().items()}
    return {verb: (text or "").splitlines()[0] for verb, text in texts.items()}


def main() -> None:
    """Entry point of the console script."""
    known, verb = verbs(), sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in ("-h", "--help"):
        print("usage: ndt3 VERB [arguments]; ndt3 VERB --help tells more\n")
        for name, what in known.items():
            print(f"  {name:15} {what}")
        print("\n  --version       versions of ndt3_dist and of what it runs on")
        return
    if verb == "--version":
        from ndt3_dist.programs.doctor import versions

        print("\n".join(f"{name} {version}" for name, version in versions().items()))
        return
    if verb not in known:
        near = difflib.get_close_matches(verb, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
        print(f"error: unknown verb {verb!r} ({hint})", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"ndt3 {verb}", *sys.argv[2:]]
    module = programs()[verb].relative_to(FOLDER).with_suffix("").parts
    program = importlib.import_module(".".join(["ndt3_dist.programs", *module]))
    log.run_program(program.main)
