#!/bin/sh
# Resolves pyproject.toml in a new environment and writes the lock files, each with what it adds to the one before, and
# with hashes those of the images (deploy/container). Versions that are locked already stay unless UPGRADE=1. Torch is
# locked without its local version label, so that any index's CPU build of it fits.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
touch requirements.lock requirements-test.lock requirements-test-all.lock
if [ "${UPGRADE:-0}" = 1 ]; then : > "$work/keep"; else sort -u requirements*.lock > "$work/keep"; fi

${PYTHON:-python3} -m venv "$work/venv"
dependencies() {
    "$work/venv/bin/python" -c "
import tomllib
project = tomllib.load(open('pyproject.toml', 'rb'))['project']
print('\n'.join(project['dependencies'] if '$1' == 'runtime' else project['optional-dependencies']['$1']))"
}
freeze() { "$work/venv/bin/pip" freeze --exclude-editable | sed 's/^\(torch==[0-9.]*\)+.*/\1/' | sort -f; }

dependencies runtime > "$work/runtime"
printf 'hatchling\neditables\n' >> "$work/runtime" # to install this project itself without a network
"$work/venv/bin/pip" install --quiet --constraint "$work/keep" --requirement "$work/runtime"
freeze > requirements.lock
cp requirements.lock "$work/locked"
for extra in test test-all; do
    dependencies "$extra" > "$work/$extra"
    "$work/venv/bin/pip" install --quiet --constraint "$work/keep" --constraint "$work/locked" --requirement "$work/$extra"
    freeze > "$work/all"
    grep -vxF -f "$work/locked" "$work/all" > "requirements-$extra.lock"
    mv "$work/all" "$work/locked"
done
"$work/venv/bin/pip" check
"$work/venv/bin/pip" install --quiet uv
"$work/venv/bin/python" -m deploy.container.locks
