#!/bin/sh
# Run a command of the project; `deepspeed`, `python` and `ndt3` are those of the locked .venv.
# exec: signals of the container's runtime reach the command itself.
set -eu
cd /opt/ndt3_dist
exec "$@"
