#!/bin/sh
# kubernetes-validate 1.37.0: `--strict` passes a manifest of a misspelt kind, and an empty file, with exit code 0.
#
# A good guess: a strict validator of manifests refuses a kind that does not exist. Seen: it has no schema for the kind,
# says WARN, looks at no field and exits 0; a wrong type in the same manifest is found once the kind is spelt right. So a
# check in CI must count what was validated, or read the schemas itself.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate==1.37.0
cat > "$folder/misspelt.yaml" <<'YAML'
apiVersion: apps/v1
kind: Deploymnt
metadata: {name: web}
spec: {replicas: three}
YAML
sed 's/Deploymnt/Deployment/' "$folder/misspelt.yaml" > "$folder/spelt.yaml"
: > "$folder/empty.yaml"
for name in misspelt empty spelt; do
    code=0
    "$folder/venv/bin/kubernetes-validate" -k 1.37 --strict "$folder/$name.yaml" > "$folder/said" || code=$?
    sed "s#$folder/##" "$folder/said"
    echo "$name: exit $code"
    case "$name $code" in "misspelt 0" | "empty 0" | "spelt 1") ;; *) exit 1 ;; esac
done
