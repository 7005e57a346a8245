"""Signal the ranks of a run on this host, and say how many there are.

Run over ssh as `python -m ndt3_dist.cluster.launch.own_ranks SIGNAL WORD ...` in the folder that
the run was started in: ranks are this user's processes of that folder that have a RANK and all of
the words in their command. Launchers have the words, too, and no RANK.
"""

import contextlib
import os
import signal
import sys


def own_ranks(words: list[str]) -> list:
    """The ranks on this host whose command has some words, as psutil's processes."""
    import psutil

    here, found = os.getcwd(), []
    # Containers that share a machine's processes are hosts of their own.
    network = os.readlink("/proc/self/ns/net")
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if not {*words} <= {*process.cmdline()} or "RANK" not in process.environ():
                continue
            if process.cwd() == here and os.readlink(f"/proc/{process.pid}/ns/net") == network:
                found.append(process)
    return found


def main() -> None:
    name, *words = sys.argv[1:]
    found = own_ranks(words)
    for process in found if name != "NONE" else ():
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.Signals[f"SIG{name}"])
    print(len(found))


if __name__ == "__main__":
    main()
