"""`ndt3 VERB ...`: the programs of this project by one name.

`ndt3 pretrain` starts one process; several need `deepspeed launch/pretrain.py`.
"""

import runpy
import sys

from ndt3_dist.config import PROJECT

VERBS = {
    "simulate": ("data_prep/simulate.py", "write simulated NWB recordings"),
    "preprocess": ("data_prep/preprocess.py", "recordings -> corpus, on Ray"),
    "verify-corpus": ("data_prep/verify.py", "check every byte of a corpus"),
    "combine": ("data_prep/combine.py", "several corpora -> one"),
    "pretrain": ("launch/pretrain.py", "pretrain on a corpus"),
    "finetune": ("launch/finetune.py", "fit a decoder to one session"),
    "evaluate": ("launch/evaluate.py", "score a decoder beside a ridge"),
    "decode": ("launch/decode.py", "decode a recording or a stream, bin by bin"),
    "replay": ("launch/replay.py", "which windows a step was trained on"),
    "report": ("launch/report.py", "report.html of a run"),
    "demo": ("launch/demo.py", "the whole path in five minutes"),
    "convert": ("checkpoints/convert.py", "checkpoint -> portable weights"),
    "verify-run": ("checkpoints/verify.py", "which checkpoints are intact"),
}


def main() -> None:
    """Entry point of the console script."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: ndt3 VERB [arguments]; ndt3 VERB --help tells more\n")
        for verb, (_, what) in VERBS.items():
            print(f"  {verb:14} {what}")
        return
    verb = sys.argv[1]
    if verb not in VERBS:
        print(f"error: unknown verb {verb!r}; expected one of {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(2)
    program = PROJECT / VERBS[verb][0]
    sys.argv = [f"ndt3 {verb}", *sys.argv[2:]]
    runpy.run_path(str(program), run_name="__main__")
