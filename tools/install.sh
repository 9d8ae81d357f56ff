#!/usr/bin/env bash
# Make .venv in the repository root and install the toolkit there, with the versions of constraints.txt.
#
#   tools/install.sh [--extras mini,test,bench]
#
# Run again it does nothing, unless setup.py or constraints.txt has changed or an installation was cut short. PYTHON
# names another interpreter than python3. Exit code 4: the message says what is missing.
set -euo pipefail

fail() {
  printf 'install: %s\n' "$1" >&2
  exit "${2:-4}"
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
stamp=$venv/installed # the digest and the extras of what is installed; "unfinished" while pip is at work
python=${PYTHON:-python3}

before=""
[[ ! -f $stamp ]] || read -r before <"$stamp" || true
extras=mini,test,bench
[[ $before != *" "* ]] || extras=${before#* }
while (($#)); do
  case $1 in
    --extras) [[ $# -ge 2 ]] || fail "--extras needs a list, such as mini,test" 2; extras=$2; shift 2 ;;
    --extras=*) extras=${1#*=}; shift ;;
    *) fail "unknown option $1; usage: tools/install.sh [--extras mini,test,bench]" 2 ;;
  esac
done

command -v "$python" >/dev/null ||
  fail "$python is not on PATH; install Python 3.10 or newer (Debian: apt-get install python3 python3-venv)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  fail "$("$python" --version) is too old; name Python 3.10 or newer with PYTHON=..."

# One installation at a time; the lock is on a file that is there anyway, and ends with this process.
exec 9<"$root/setup.py"
! command -v flock >/dev/null || flock 9
before=""
[[ ! -f $stamp ]] || read -r before <"$stamp" || true
digest=$({ printf '%s\n' "$root" && cat "$root/setup.py" "$root/constraints.txt"; } | "$python" -c \
  'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
[[ $before != "$digest $extras" ]] || exit 0

printf 'install: into %s, with the extras %s; torch alone is over a gigabyte\n' "$venv" "$extras" >&2
clear=()
[[ $before != unfinished ]] || clear=(--clear)
"$python" -m venv "${clear[@]}" "$venv" >&2 ||
  fail "$python cannot make a virtual environment (Debian: apt-get install python3-venv)"
"$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
  fail "$venv has no pip (Debian: apt-get install python3-venv); remove $venv and run this again"
echo unfinished >"$stamp" # whoever is killed here leaves packages by halves
"$venv/bin/python" -m pip install --disable-pip-version-check -c "$root/constraints.txt" -e "${root}[$extras]" >&2 || {
  rm "$stamp"
  fail "pip could not install the dependencies (above: why); it needs a package index that it can reach, and disk space"
}
rm "$stamp"
"$venv/bin/w2vbert" doctor --set "extras=[$extras]" >&2 ||
  fail "what was installed does not work (above: what); run this again, or remove $venv first"
echo "$digest $extras" >"$stamp"
