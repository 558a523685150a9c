#!/usr/bin/env bash
# Builds both images without a daemon, with buildah: deploy/container/build.sh [OPTIONS OF buildah build]
#
#   BASE=…     the base image; by default a Debian tree is made by mmdebstrap (root is needed for that)
#   TAG=…      tag of both images, by default dev
#   OUT=…      folder for the OCI archives and the SBOMs, by default dist/images
#
# Afterwards smoke.sh starts the gateway's image and calls it.
set -euo pipefail
cd "$(dirname "$0")/../.."
export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs} BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
tag=${TAG:-dev} out=${OUT:-dist/images} work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"

if [ -z "${BASE:-}" ]; then
    BASE=localhost/llmops-base:bookworm
    if ! buildah inspect --type image "$BASE" > "$work/base.json" 2>&1; then
        packages=ca-certificates,libgomp1,passwd,python3,python3-venv
        mmdebstrap --variant=minbase --include="$packages" bookworm "$work/base.tar" "${MIRROR:-http://deb.debian.org/debian}"
        container=$(buildah from scratch)
        buildah add --quiet "$container" "$work/base.tar" /
        buildah commit --quiet --rm "$container" "$BASE"
    fi
fi

rm -rf dist/*.whl
.venv/bin/python -m build --quiet --wheel --no-isolation --outdir dist
for target in gateway worker; do
    buildah build --layers --file deploy/container/Containerfile --target "$target" --build-arg "BASE=$BASE" \
        --timestamp "$(git log -1 --format=%ct)" --tag "localhost/llmops-$target:$tag" "$@" .
    rm -f "$out/$target.tar"
    buildah push --quiet "localhost/llmops-$target:$tag" "oci-archive:$out/$target.tar"
done

# What is inside, as CycloneDX: the locks are what pip installed, and nothing else.
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet cyclonedx-bom==7.5.0
for target in gateway worker; do
    cp deploy/container/gateway.lock "$work/$target.txt"
    [ "$target" = gateway ] || cat deploy/container/worker.lock >> "$work/$target.txt"
    "$work/venv/bin/cyclonedx-py" requirements "$work/$target.txt" --output-reproducible --of JSON -o "$out/$target.cdx.json"
done
ls -l "$out"
