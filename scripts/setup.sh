#!/usr/bin/env bash
# Sourced by the two commands of the README: system libraries where they are missing, a virtual environment, the package.
#   source scripts/setup.sh VENV REQUIREMENT...      (such as: source scripts/setup.sh .venv -e '.[dev]')
# PYTHON and CONSTRAINTS may be set to use another interpreter or another set of tested versions.

# opencv, which mmengine requires, links against these two; venv is a package of its own on Debian.
if command -v apt-get >/dev/null && ! dpkg -s libgl1 libglib2.0-0 python3-venv >/dev/null 2>&1; then
    as_root=$([ "$(id -u)" = 0 ] || echo sudo)
    $as_root apt-get update -qq
    $as_root apt-get install -y -qq --no-install-recommends libgl1 libglib2.0-0 python3-venv >/dev/null
fi

venv=${1:?source scripts/setup.sh VENV REQUIREMENT...}
shift
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
source "$venv/bin/activate"
python -m pip install --quiet --disable-pip-version-check -c "${CONSTRAINTS:-constraints.txt}" "$@"
# yapf, which mmengine imports, writes a cache at its first import; two processes that do so at once trip over each other.
python -c "import mmengine.config"
