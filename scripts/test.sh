#!/usr/bin/env bash
# Sets up what is missing, then style, types and tests. Arguments go to pytest:
#   bash scripts/test.sh                the tests of every change (minutes)
#   bash scripts/test.sh -m slow        the long ones
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
export OMP_NUM_THREADS=1
ruff check .
ruff format --check .
mypy
if [ $# -eq 0 ]; then set -- -m "not slow" -n 2 --dist loadfile; fi
python -m pytest "$@"
