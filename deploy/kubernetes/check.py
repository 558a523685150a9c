"""Checks every manifest of this folder without a cluster: schemas, references, and the rules that README.md states.

    python -m deploy.kubernetes.check [FILE ...]

Without files: what Kustomize builds of the base, of each overlay and of the components, and what Helm renders of the
chart. Exits 1 and lists what is wrong. The schemas are those of the package kubernetes-validate; its own command only
warns of a kind that it does not know, and so passes a misspelt one, which is an error here.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import jsonschema_rs
import yaml
from croniter import croniter  # type: ignore[import-untyped]

from llmops.cli import cli
from llmops.errors import LlmopsError
from llmops.settings import Settings
from service.server import KILL_MARGIN_SECONDS

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
KUBERNETES_VERSIONS = ("1.33", "1.37")
"""The oldest and the newest whose schemas every manifest follows."""

BUILDS = ("base", "overlays/kind", "overlays/production", "components/kserve")
OUR_IMAGES = ("llmops-gateway", "llmops-worker")
SECRET_KEYS = frozenset(
    re.findall(r"^\| `([a-z0-9-]+)` \|", (HERE / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
)
"""Keys of the Secret `llmops`: those that README.md lists."""

_CRDS = json.loads((HERE / "crds.json").read_text(encoding="utf-8"))
_SECRET_NAME = re.compile(r"(KEY|SECRET|PASSWORD|TOKEN)(_ID)?$")
_PASSWORD = re.compile(r"://[^/\s:@]*:[^/\s@]+@")
_LLMOPS = re.compile(r"(?:^|\s)llmops ([^;|&\n]+)")
_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Workload:
    """A manifest that makes pods. spec, labels: those of its pods."""

    name: str
    kind: str
    spec: Mapping[str, Any]
    labels: Mapping[str, str]

    @property
    def runs_on(self) -> bool:
        return self.kind not in ("Job", "CronJob")

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


class Manifests:
    """What one build renders.

    source: what findings name it by.
    whole: it is an installation, not a part of one, so nothing may be missing.
    deployed: as it is, so that its images have tags.
    """

    def __init__(
        self, source: str, manifests: Iterable[Manifest], *, whole: bool = True, deployed: bool = True
    ) -> None:
        self.source, self.whole, self.deployed = source, whole, deployed
        self.all = [manifest for manifest in manifests if manifest]

    def of(self, *kinds: str) -> list[Manifest]:
        return [manifest for manifest in self.all if manifest.get("kind") in kinds]

    def named(self, kind: str, name: str) -> Manifest | None:
        return next((each for each in self.of(kind) if each["metadata"]["name"] == name), None)

    @cached_property
    def workloads(self) -> list[Workload]:
        found = []
        for manifest in self.of("Deployment", "StatefulSet", "Job", "CronJob", "InferenceService"):
            kind, name, spec = manifest["kind"], manifest["metadata"]["name"], manifest["spec"]
            if kind == "InferenceService":
                labels = {"serving.kserve.io/inferenceservice": name}
                found.append(Workload(name, kind, spec["predictor"], labels))
                continue
            template = (spec["jobTemplate"]["spec"] if kind == "CronJob" else spec)["template"]
            found.append(Workload(name, kind, template["spec"], template.get("metadata", {}).get("labels", {})))
        return found

    @cached_property
    def settings(self) -> Mapping[str, str]:
        """The ConfigMap that our containers read, if this build has it."""
        manifest = self.named("ConfigMap", "llmops-settings")
        return manifest["data"] if manifest else {}


Rule = Callable[[Manifests], Iterator[str]]
RULES: dict[str, Rule] = {}


def rule(name: str) -> Callable[[Rule], Rule]:
    """Registers a rule under the name with which its findings are reported."""

    def register(check: Rule) -> Rule:
        RULES[name] = check
        return check

    return register


@rule("schema")
def _schema(manifests: Manifests) -> Iterator[str]:
    for manifest in manifests.all:
        version, kind = str(manifest.get("apiVersion")), str(manifest.get("kind"))
        for kubernetes in KUBERNETES_VERSIONS:
            validator = _validator(version, kind, kubernetes)
            if validator is None:
                yield f"{version} {kind}: no such kind in Kubernetes {kubernetes}, nor in crds.json"
                continue
            for error in validator.iter_errors(manifest):
                field = ".".join(map(str, error.instance_path))
                yield f"{kind} {manifest.get('metadata', {}).get('name')}: {field}: {error.message} ({kubernetes})"


@cache
def _validator(version: str, kind: str, kubernetes: str) -> jsonschema_rs.Validator | None:
    if f"{version} {kind}" in _CRDS:
        return jsonschema_rs.validator_for(_CRDS[f"{version} {kind}"])
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{kubernetes}.0-local-strict"
    group, _, number = version.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.partition(".")[0], number)))
    schema, definitions = folder / f"{name}.json", folder / "_definitions.json"
    if not schema.is_file():
        return None
    registry = jsonschema_rs.Registry([("_definitions.json", json.loads(definitions.read_text()))])
    return jsonschema_rs.Draft202012Validator(json.loads(schema.read_text()), registry=registry)


@rule("non-root")
def _non_root(manifests: Manifests) -> Iterator[str]:
    for pod in manifests.workloads:
        context = pod.spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
            yield f"{pod.name}: the pod must have runAsNonRoot and a runAsUser above 0"


@rule("seccomp")
def _seccomp(manifests: Manifests) -> Iterator[str]:
    for pod in manifests.workloads:
        if pod.spec.get("securityContext", {}).get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pod.name}: the pod must have the seccompProfile RuntimeDefault"


@rule("no token")
def _no_token(manifests: Manifests) -> Iterator[str]:
    for pod in manifests.workloads:
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.name}: automountServiceAccountToken must be false"


@rule("read-only root")
def _read_only_root(manifests: Manifests) -> Iterator[str]:
    for pod, container in _containers(manifests):
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield f"{pod.name}/{container['name']}: readOnlyRootFilesystem must be true"


@rule("no privileges")
def _no_privileges(manifests: Manifests) -> Iterator[str]:
    for pod, container in _containers(manifests):
        context = container.get("securityContext", {})
        if context.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{pod.name}/{container['name']}: capabilities must be exactly drop: [ALL]"
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            yield f"{pod.name}/{container['name']}: allowPrivilegeEscalation must be false, and privileged not set"


@rule("resources")
def _resources(manifests: Manifests) -> Iterator[str]:
    for pod, container in _containers(manifests):
        where = f"{pod.name}/{container['name']}"
        requests, limits = (container.get("resources", {}).get(which, {}) for which in ("requests", "limits"))
        for what in ("cpu", "memory"):
            asked, most = _quantity(requests.get(what)), _quantity(limits.get(what))
            if asked is None or most is None:
                yield f"{where}: {what} needs a request and a limit that are quantities"
            elif asked > most:
                yield f"{where}: more {what} is requested than the limit allows"


@rule("probes")
def _probes(manifests: Manifests) -> Iterator[str]:
    for pod, container in _containers(manifests):
        if not pod.runs_on:
            continue
        wanted = ["livenessProbe", *(["readinessProbe"] if container.get("ports") else [])]
        for probe in wanted:
            if probe not in container:
                yield f"{pod.name}/{container['name']}: has no {probe}"
        ports = {port.get("name", port["containerPort"]) for port in container.get("ports", ())}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            handler = container.get(probe, {})
            port = (handler.get("httpGet") or handler.get("tcpSocket") or {}).get("port")
            if port is not None and port not in ports | {each["containerPort"] for each in container.get("ports", ())}:
                yield f"{pod.name}/{container['name']}: {probe} asks port {port}, which the container has not"


@rule("grace")
def _grace(manifests: Manifests) -> Iterator[str]:
    """An open stream lasts up to the engine's time-out; only then the worker writes its log and ends."""
    for pod, container in _containers(manifests):
        if _ours(container) and "serve" in container.get("args", ()):
            settings = Settings.from_environment(_llmops_variables(manifests.settings))
            if settings.drain_seconds < settings.engine_timeout:
                yield f"{pod.name}: LLMOPS_DRAIN_SECONDS is shorter than an answer may take, LLMOPS_ENGINE_TIMEOUT"
            pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            if not pause:
                yield f"{pod.name}/{container['name']}: preStop must sleep until no new connections come"
            least = pause + settings.drain_seconds + KILL_MARGIN_SECONDS
            if pod.spec.get("terminationGracePeriodSeconds", 30) < least:
                yield f"{pod.name}: terminationGracePeriodSeconds must be at least {least:.0f}"


@rule("images")
def _images(manifests: Manifests) -> Iterator[str]:
    for pod, container in _containers(manifests):
        image = container.get("image", "")
        tagged = "@sha256:" in image or (":" in image.rpartition("/")[2] and not image.endswith(":latest"))
        if not tagged and (manifests.deployed or image not in OUR_IMAGES):
            yield f"{pod.name}/{container['name']}: image {image!r} needs a tag other than latest, or a digest"


@rule("secrets by reference")
def _secrets(manifests: Manifests) -> Iterator[str]:
    for manifest in manifests.of("ConfigMap"):
        for key, text in manifest.get("data", {}).items():
            if _PASSWORD.search(text):
                yield f"{manifest['metadata']['name']}: {key} holds an address with a password"
    for pod, container in _containers(manifests):
        for variable in container.get("env", ()):
            value = variable.get("value", "")
            if value and (_SECRET_NAME.search(variable["name"]) or _PASSWORD.search(value)):
                yield f"{pod.name}/{container['name']}: {variable['name']} must come from a Secret"


@rule("secret keys")
def _secret_keys(manifests: Manifests) -> Iterator[str]:
    references = [
        (f"{pod.name}/{container['name']}", variable["valueFrom"]["secretKeyRef"])
        for pod, container in _containers(manifests)
        for variable in container.get("env", ())
        if "secretKeyRef" in variable.get("valueFrom", {})
    ]
    references += [
        (manifest["metadata"]["name"], endpoint["authorization"]["credentials"])
        for manifest in manifests.of("ServiceMonitor")
        for endpoint in manifest["spec"]["endpoints"]
        if "authorization" in endpoint
    ]
    for where, reference in references:
        if reference["name"] != "llmops" or reference["key"] not in SECRET_KEYS:
            yield f"{where}: README.md lists no key {reference['key']} of a Secret {reference['name']}"


@rule("settings")
def _settings(manifests: Manifests) -> Iterator[str]:
    for pod, container in _containers(manifests):
        variables = {each["name"]: each.get("value", "") for each in container.get("env", ())}
        plain = {**manifests.settings, **{name: value for name, value in variables.items() if value}}
        try:
            Settings.from_environment(_llmops_variables(plain))
        except LlmopsError as error:
            yield f"{pod.name}/{container['name']}: {error}"
        unknown = _llmops_variables(variables).keys() - {
            f"LLMOPS_{name.upper()}" for name in Settings.__dataclass_fields__
        }
        if unknown:
            yield f"{pod.name}/{container['name']}: unknown settings {', '.join(sorted(unknown))}"


@rule("commands")
def _commands(manifests: Manifests) -> Iterator[str]:
    for pod, container in _containers(manifests):
        if not _ours(container):
            continue
        command, arguments = container.get("command", []), container.get("args", [])
        lines = [shlex.join(arguments)] if not command else []
        if command[:1] == ["sh"]:
            lines = [match.replace('"$(date -u +%Y-%m-%d)"', "cycle") for match in _LLMOPS.findall(" ".join(arguments))]
        for line in lines:
            try:
                _parse(shlex.split(line))
            except click.ClickException as error:
                yield f"{pod.name}/{container['name']}: llmops {line}: {error.format_message()}"


@rule("references")
def _references(manifests: Manifests) -> Iterator[str]:
    existing = {(each["kind"], each["metadata"]["name"]) for each in manifests.all}
    for pod in manifests.workloads:
        wanted = [("ServiceAccount", pod.spec.get("serviceAccountName"))] if manifests.whole else []
        for volume in pod.spec.get("volumes", ()):
            if "configMap" in volume:
                wanted.append(("ConfigMap", volume["configMap"]["name"]))
            if "persistentVolumeClaim" in volume:
                wanted.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        wanted += [
            ("ConfigMap", source["configMapRef"]["name"])
            for each in pod.containers
            for source in each.get("envFrom", ())
        ]
        for kind, name in wanted:
            if (kind, name) not in existing:
                yield f"{pod.name}: names {kind} {name}, which does not exist"


@rule("volumes")
def _volumes(manifests: Manifests) -> Iterator[str]:
    for pod, container in _containers(manifests):
        volumes = {volume["name"] for volume in pod.spec.get("volumes", ())}
        if pod.kind == "StatefulSet" and (manifest := manifests.named(pod.kind, pod.name)):
            volumes |= {each["metadata"]["name"] for each in manifest["spec"]["volumeClaimTemplates"]}
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in volumes:
                yield f"{pod.name}/{container['name']}: mounts {mount['name']}, which the pod has not"


@rule("selectors")
def _selectors(manifests: Manifests) -> Iterator[str]:
    for manifest in manifests.of("Deployment", "StatefulSet"):
        wanted = manifest["spec"]["selector"].get("matchLabels", {})
        if not wanted.items() <= manifest["spec"]["template"]["metadata"]["labels"].items():
            yield f"{manifest['metadata']['name']}: selects other pods than its own"
    for manifest in manifests.of("Service"):
        name, chosen = manifest["metadata"]["name"], _selected(manifests, {"matchLabels": manifest["spec"]["selector"]})
        ports = {port.get("name") for pod in chosen for each in pod.containers for port in each.get("ports", ())}
        for port in manifest["spec"]["ports"]:
            if port.get("targetPort") not in ports:
                yield f"Service {name}: no pod has its port {port.get('targetPort')!r}"
    for manifest in manifests.of("ServiceMonitor"):
        services = [
            service
            for service in manifests.of("Service")
            if manifest["spec"]["selector"]["matchLabels"].items() <= service["metadata"].get("labels", {}).items()
        ]
        ports = {port.get("name") for service in services for port in service["spec"]["ports"]}
        if any(endpoint["port"] not in ports for endpoint in manifest["spec"]["endpoints"]):
            yield f"ServiceMonitor {manifest['metadata']['name']}: no Service has its port"


@rule("network")
def _network(manifests: Manifests) -> Iterator[str]:
    denial = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    if manifests.whole and denial not in [policy["spec"] for policy in manifests.of("NetworkPolicy")]:
        yield "no NetworkPolicy denies everything by default"
    allowed: list[Workload] = []
    for policy in manifests.of("NetworkPolicy"):
        if selector := policy["spec"]["podSelector"]:
            chosen = _selected(manifests, selector)
            allowed += chosen
            if not chosen:
                yield f"NetworkPolicy {policy['metadata']['name']}: selects no pod"
    for pod in manifests.workloads:
        if pod not in allowed:
            yield f"{pod.name}: no NetworkPolicy says what it may talk to"


@rule("network peers")
def _network_peers(manifests: Manifests) -> Iterator[str]:
    for policy in manifests.of("NetworkPolicy"):
        name, spec = policy["metadata"]["name"], policy["spec"]
        entries = [*spec.get("ingress", ()), *spec.get("egress", ())]
        if {} in entries or not all(entry.get("from") for entry in spec.get("ingress", ())):
            yield f"NetworkPolicy {name}: a rule allows everybody"
        for peer in (peer for entry in entries for peer in [*entry.get("from", ()), *entry.get("to", ())]):
            selector = peer.get("podSelector")
            if selector and "namespaceSelector" not in peer and not _selected(manifests, selector):
                yield f"NetworkPolicy {name}: a rule names pods that do not exist"


@rule("disruption")
def _disruption(manifests: Manifests) -> Iterator[str]:
    budgets = manifests.of("PodDisruptionBudget")
    for scaler in manifests.of("HorizontalPodAutoscaler"):
        target = manifests.named(scaler["spec"]["scaleTargetRef"]["kind"], scaler["spec"]["scaleTargetRef"]["name"])
        pods = [pod for pod in manifests.workloads if target and pod.name == target["metadata"]["name"]]
        covered = [pod for budget in budgets for pod in _selected(manifests, budget["spec"]["selector"])]
        if not any(pod in covered for pod in pods):
            yield f"{scaler['metadata']['name']}: has no PodDisruptionBudget"
    for budget in budgets:
        if budget["spec"].get("maxUnavailable") != 1:
            yield f"PodDisruptionBudget {budget['metadata']['name']}: maxUnavailable must be 1"


@rule("scaling")
def _scaling(manifests: Manifests) -> Iterator[str]:
    if manifests.whole and not manifests.of("HorizontalPodAutoscaler"):
        yield "the gateway has no HorizontalPodAutoscaler"
    for scaler in manifests.of("HorizontalPodAutoscaler"):
        name, spec = scaler["metadata"]["name"], scaler["spec"]
        if manifests.named(spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]) is None:
            yield f"HorizontalPodAutoscaler {name}: its target does not exist"
        if spec.get("minReplicas", 1) > spec["maxReplicas"]:
            yield f"HorizontalPodAutoscaler {name}: minReplicas is above maxReplicas"
        metrics = [each["pods"]["metric"]["name"] for each in spec["metrics"] if each["type"] == "Pods"]
        if metrics != ["llmops_in_flight"]:
            yield f"HorizontalPodAutoscaler {name}: must scale on llmops_in_flight"


@rule("jobs")
def _jobs(manifests: Manifests) -> Iterator[str]:
    for manifest in manifests.of("CronJob"):
        name, spec = manifest["metadata"]["name"], manifest["spec"]
        if spec.get("concurrencyPolicy") != "Forbid":
            yield f"CronJob {name}: concurrencyPolicy must be Forbid"
        if (
            spec.get("timeZone") != "Etc/UTC"
            or not croniter.is_valid(spec["schedule"])
            or len(spec["schedule"].split()) != 5
        ):
            yield f"CronJob {name}: its schedule must be five fields in the timeZone Etc/UTC"


def _containers(manifests: Manifests) -> Iterator[tuple[Workload, Mapping[str, Any]]]:
    return ((pod, container) for pod in manifests.workloads for container in pod.containers)


def _selected(manifests: Manifests, selector: Mapping[str, Any]) -> list[Workload]:
    wanted = selector.get("matchLabels", {}).items()
    expressions = selector.get("matchExpressions", ())
    return [
        pod
        for pod in manifests.workloads
        if wanted <= pod.labels.items() and all(pod.labels.get(each["key"]) in each["values"] for each in expressions)
    ]


def _ours(container: Mapping[str, Any]) -> bool:
    return container.get("image", "").partition("@")[0].rpartition("/")[2].partition(":")[0] in OUR_IMAGES


def _llmops_variables(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name.startswith("LLMOPS_")}


def _quantity(text: str | int | None) -> float | None:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(m|k|M|G|Ki|Mi|Gi|Ti|)", str(text))
    return float(match[1]) * _UNITS[match[2]] if match else None


def _parse(arguments: list[str]) -> None:
    """Reads a command line as click would, without running it. Raises click.ClickException."""
    command: click.Command = cli
    context = click.Context(command, info_name="llmops", **command.context_settings)
    while isinstance(command, click.Group):
        name, found, arguments = command.resolve_command(context, arguments)
        if found is None:
            raise click.UsageError("no such command")
        command, context = found, click.Context(found, info_name=name, parent=context, **found.context_settings)
    command.parse_args(context, arguments)


def builds() -> Iterator[Manifests]:
    """Everything that this folder renders. Raises CalledProcessError: Kustomize or Helm refused it."""
    for build in BUILDS:
        text = _output(BIN / "kubectl", "kustomize", HERE / build)
        whole = not build.startswith("components")
        yield Manifests(build, yaml.safe_load_all(text), whole=whole, deployed=build.startswith("overlays"))
    _output(BIN / "helm", "lint", "--strict", HERE / "chart")
    chart = _output(BIN / "helm", "template", "llmops", HERE / "chart")
    yield Manifests("chart", yaml.safe_load_all(chart), deployed=False)


def wrong(manifests: Manifests) -> list[str]:
    """What the rules find, each with source and rule; what breaks its schema or a setting is not judged further."""
    for names in ({"schema"}, {"settings"}, RULES.keys() - {"schema", "settings"}):
        found = [f"{manifests.source}: {name}: {text}" for name in sorted(names) for text in RULES[name](manifests)]
        if found:
            return found
    return []


def _output(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Prints what is wrong, or how much was checked."""
    files = [Path(argument) for argument in sys.argv[1:]]
    try:
        sources = [Manifests(str(file), yaml.safe_load_all(file.read_text(encoding="utf-8"))) for file in files]
        sources = sources or list(builds())
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(error.cmd)}\n{error.stdout}{error.stderr}")
    if empty := [each.source for each in sources if not each.all]:
        sys.exit(f"{', '.join(empty)}: nothing was rendered")
    found = [finding for each in sources for finding in wrong(each)]
    sys.stdout.write("".join(f"{finding}\n" for finding in found))
    checked = ", ".join(f"{each.source} {len(each.all)}" for each in sources)
    sys.exit(f"{len(found)} findings") if found else sys.stdout.write(
        f"manifests: {checked}; {len(RULES)} rules hold\n"
    )


if __name__ == "__main__":
    main()
