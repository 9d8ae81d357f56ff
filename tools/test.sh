#!/usr/bin/env bash
# Check everything: lint, types, tests. Installs first where that has not been done; arguments go to pytest.
#
#   tools/test.sh [-k EXPRESSION] [PATH...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/install.sh --extras mini,test,bench
export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
ruff check .
mypy
pytest -n 2 "$@"
