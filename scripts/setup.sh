# Makes .venv with nat in it, with the tested versions of constraints.txt. Sourced by the other scripts:
#   . scripts/setup.sh plot   nat and what its page draws figures with
#   . scripts/setup.sh test   nat and what its tests need
# PYTHON=/path/to/python3.12 chooses another interpreter.

fail() { echo "setup: $*" >&2; exit 2; }

find_python() {
  for name in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
    if command -v "$name" >/dev/null 2>&1 &&
      "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then
      command -v "$name"
      return 0
    fi
  done
  return 1
}

extra=$1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
venv=${NAT_VENV:-$root/.venv}
stamp="$venv/.nat-$(cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)-$extra"

if [ ! -f "$stamp" ]; then
  python=$(find_python) || fail "Python 3.11, 3.12 or 3.13 is missing (looked for ${PYTHON:-python3.11 to python3.13, python3}); install it, or name it: PYTHON=/path/to/python"
  "$python" -m pip --version >/dev/null 2>&1 || fail "pip is missing for $python; install it (Debian: apt-get install python3-pip)"
  if [ ! -x "$venv/bin/python" ]; then
    echo "setup: making $venv with $("$python" --version)"
    "$python" -m venv --without-pip "$venv" || fail "$python cannot make a virtual environment; install its venv module (Debian: apt-get install python3-venv)"
  fi
  echo "setup: installing nat and its packages (the first time this takes some minutes)"
  # pip from outside serves an environment without one: ensurepip is often missing
  "$python" -m pip --python "$venv/bin/python" install --quiet -c constraints.txt -e ".[$extra]" ||
    fail "installation failed, see pip's message above; a package registry (PyPI) must be reachable, and about 2 GB of disk free"
  touch "$stamp"
fi
export PATH="$venv/bin:$PATH"
