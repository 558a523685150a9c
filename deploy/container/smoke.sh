#!/usr/bin/env bash
# Starts the gateway's image with the user it has in a cluster and calls it: deploy/container/smoke.sh [TAG]. The home,
# with a model and a release, is made by the worker's image.
set -euo pipefail
export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs} BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
tag=${1:-dev} port=${PORT:-18080} work=$(mktemp -d)
serving="" worker="" gateway=""
stop() {
    if [ -n "$serving" ]; then # buildah passes no signal on; without a daemon, the process is one of this machine's
        kill "$(cat "$work/tmp/pid")" || true
        wait "$serving" || true
    fi
    for container in $worker $gateway; do buildah rm "$container" > "$work/removed"; done
    rm -rf "$work"
}
trap stop EXIT

mkdir "$work/home" "$work/tmp"
chown -R 10001:10001 "$work"
chmod 755 "$work"
worker=$(buildah from "localhost/llmops-worker:$tag")
gateway=$(buildah from "localhost/llmops-gateway:$tag")
inside() { # CONTAINER ARGUMENTS... with the home as the only place to write, and OPTIONS of buildah run
    local container=$1
    shift
    # shellcheck disable=SC2086 # options are words
    buildah run --user 10001:10001 --volume "$work/home:/var/lib/llmops" --volume "$work/tmp:/tmp" ${OPTIONS:-} "$container" -- "$@"
}

inside "$worker" llmops models pull
inside "$worker" llmops prompts register
inside "$worker" llmops release create assistant --prompt qa@2 --model smollm2-135m-instruct@1
inside "$worker" llmops promote assistant@1 --force --why "smoke test"
for package in torch evidently ragas; do
    ! inside "$gateway" python -c "import $package" 2> /dev/null || { echo "the gateway's image has $package"; exit 1; }
    inside "$worker" python -c "import $package"
done
[ "$(inside "$gateway" id -u)" = 10001 ]

inside "$gateway" sh -c "echo \$\$ > /tmp/pid && exec llmops serve --port $port" &
serving=$!
for _ in $(seq 600); do
    curl -sf "http://127.0.0.1:$port/readyz" > "$work/ready" && break
    kill -0 "$serving" || exit 1
    sleep 1
done
answer=$(curl -sf "http://127.0.0.1:$port/v1/chat/completions" -H 'content-type: application/json' \
    -d '{"model": "assistant", "messages": [{"role": "user", "content": "What is the capital of Peru?"}]}')
echo "$answer"
[[ $answer == *'"chat.completion"'* ]]
inside "$worker" llmops log tail -n 1
