"""Compare runs on a web page of this machine, live ones as they go.

Example:
    ndt3 board runs
    ndt3 board 'runs/big*' s3://lab/runs --port 7007

Open the address that it prints. From elsewhere: `ssh -L 6106:localhost:6106 HOST`. Whoever is
logged in on this machine can open it, too. It only reads, and ends with Ctrl-C.
"""

import argparse

from ndt3_dist import log
from ndt3_dist.errors import BadInput

PORT = 6106


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", help="runs or folders above them, patterns, s3:// URLs")
    parser.add_argument(
        "--port", type=int, default=PORT, help=f"0 = any that is free (default: {PORT})"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; any other than the default is open to other machines",
    )
    args = parser.parse_args()
    if not 0 <= args.port < 65536:
        raise BadInput(f"--port {args.port}: expected 0 to 65535")
    from ndt3_dist.cluster.board.answers import Answers
    from ndt3_dist.cluster.board.collection import Collection
    from ndt3_dist.cluster.board.server import BoardServer, is_loopback

    with log.waiting(f"looking for runs in {', '.join(args.runs)}"):
        runs = Collection(args.runs)
    try:
        server = BoardServer((args.host, args.port), Answers(runs))
    except OSError as e:
        raise BadInput(
            f"--host {args.host} --port {args.port}: cannot be had ({e.strerror or e}); another "
            "program may have it: choose another --port, or --port 0 for any"
        ) from e
    if not is_loopback(args.host):
        log.warn(f"the board is open to whoever reaches {args.host}, without a password")
    address, port = server.server_address[:2]
    shown = f"[{address}]" if ":" in str(address) else address
    log.say(f"{runs.number} runs: http://{shown}:{port}/ (Ctrl-C ends it)")
    runs.start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        runs.close()
        server.server_close()


if __name__ == "__main__":
    log.run_program(main)
