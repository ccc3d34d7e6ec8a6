#!/usr/bin/env bash
# Sets everything up and runs the quick tests. Arguments go to pytest (such as -m slow).
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh .venv-dev -e '.[dev]'

export OMP_NUM_THREADS=1   # two workers on two cores: more threads only get into each other's way
python -m pytest -n 2 --dist worksteal "$@"
