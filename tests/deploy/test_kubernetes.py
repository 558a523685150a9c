"""The manifests of deploy/kubernetes follow their rules, and each rule refuses a manifest that breaks it."""

import copy
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.kubernetes import check

FOLDER = Path(check.__file__).parent

GONE = object()
POD = "spec.template.spec"
CONTAINER = f"{POD}.containers.0"
GATEWAY, MLFLOW, PIPELINE = ("Deployment", "gateway"), ("Deployment", "mlflow"), ("CronJob", "pipeline")


@pytest.fixture(scope="module")
def builds():
    return {each.source: each for each in check.builds()}


def variable(name, value):
    return {"name": name, "value": value}


def broken(builds, build, kind, name, path, value):
    """The build with one value of one manifest set, or removed."""
    manifests = copy.deepcopy(builds[build].all)
    at = next(each for each in manifests if each["kind"] == kind and each["metadata"]["name"] == name)
    *way, last = (int(part) if part.isdigit() else part.replace("~", ".") for part in path.split("."))
    for part in way:
        at = at[part]
    if value is GONE:
        del at[last]
    else:
        at[last] = value
    return check.Manifests(build, manifests, whole=builds[build].whole, deployed=builds[build].deployed)


@pytest.mark.slow
def test_every_build_follows_every_rule(builds):
    assert [finding for each in builds.values() for finding in check.wrong(each)] == []
    assert all(len(each.all) > 1 for each in builds.values())


def test_the_chart_renders_the_objects_of_the_base(builds):
    def by_name(build):
        return {(each["kind"], each["metadata"]["name"]): each for each in builds[build].all}

    assert by_name("chart") == by_name("base")


@pytest.mark.parametrize(
    ("rule", "kind_and_name", "path", "value"),
    [
        ("schema", GATEWAY, "kind", "Deploymnet"),
        ("schema", GATEWAY, "apiVersion", "extensions/v1beta1"),
        ("schema", GATEWAY, f"{CONTAINER}.securityContext.readOnlyRootFileSystem", True),
        ("schema", ("HorizontalPodAutoscaler", "gateway"), "spec.maxReplicas", "20"),
        ("non-root", GATEWAY, f"{POD}.securityContext.runAsNonRoot", GONE),
        ("non-root", GATEWAY, f"{POD}.securityContext.runAsUser", 0),
        ("seccomp", GATEWAY, f"{POD}.securityContext.seccompProfile", GONE),
        ("no token", GATEWAY, f"{POD}.automountServiceAccountToken", GONE),
        ("read-only root", MLFLOW, f"{CONTAINER}.securityContext.readOnlyRootFilesystem", GONE),
        ("no privileges", GATEWAY, f"{CONTAINER}.securityContext.capabilities", GONE),
        ("no privileges", GATEWAY, f"{CONTAINER}.securityContext.allowPrivilegeEscalation", GONE),
        ("resources", ("Deployment", "monitor"), f"{CONTAINER}.resources.limits.memory", GONE),
        ("resources", GATEWAY, f"{CONTAINER}.resources.requests.memory", "512MB"),
        ("resources", GATEWAY, f"{CONTAINER}.resources.requests.cpu", "3"),
        ("probes", GATEWAY, f"{CONTAINER}.livenessProbe", GONE),
        ("probes", GATEWAY, f"{CONTAINER}.readinessProbe", GONE),
        ("probes", GATEWAY, f"{CONTAINER}.readinessProbe.httpGet.port", "htpp"),
        ("grace", GATEWAY, f"{POD}.terminationGracePeriodSeconds", GONE),
        ("grace", GATEWAY, f"{POD}.terminationGracePeriodSeconds", 165),
        ("grace", GATEWAY, f"{CONTAINER}.lifecycle", GONE),
        ("grace", ("ConfigMap", "llmops-settings"), "data.LLMOPS_DRAIN_SECONDS", GONE),
        ("images", GATEWAY, f"{CONTAINER}.image", "redis"),
        ("images", GATEWAY, f"{CONTAINER}.image", "registry.example:5000/llmops-gateway:latest"),
        ("secrets by reference", GATEWAY, f"{CONTAINER}.env.0", variable("LLMOPS_LOG_URL", "db://me:pw@host/log")),
        ("secrets by reference", MLFLOW, f"{CONTAINER}.env.7", variable("AWS_ACCESS_KEY_ID", "AKIA")),
        ("secret keys", GATEWAY, f"{CONTAINER}.env.0.valueFrom.secretKeyRef.key", "log-uri"),
        ("secrets by reference", ("ConfigMap", "llmops-settings"), "data.LLMOPS_LOG_URL", "db://me:pw@host/log"),
        ("settings", ("ConfigMap", "llmops-settings"), "data.LLMOPS_DRAIN_SECOND", "120"),
        ("settings", ("ConfigMap", "llmops-settings"), "data.LLMOPS_MAX_WAITING", "many"),
        ("settings", GATEWAY, f"{CONTAINER}.env.1.name", "LLMOPS_REDIS"),
        ("commands", GATEWAY, f"{CONTAINER}.args", ["serve", "--hots", "localhost"]),
        ("commands", PIPELINE, f"spec.jobTemplate.{CONTAINER}.args.0", "llmops pipelines run llm; exit 0"),
        ("references", GATEWAY, f"{CONTAINER}.envFrom.0.configMapRef.name", "settings"),
        ("volumes", GATEWAY, f"{CONTAINER}.volumeMounts.0.name", "hoem"),
        ("references", ("ConfigMap", "llmops-monitor"), "metadata.name", "monitor"),
        ("references", GATEWAY, f"{POD}.serviceAccountName", GONE),
        ("selectors", GATEWAY, "spec.selector.matchLabels.app", "gateway"),
        ("selectors", ("Service", "gateway"), "spec.ports.0.targetPort", "htpp"),
        ("network", ("NetworkPolicy", "default-deny"), "spec.policyTypes", ["Ingress"]),
        ("network", ("NetworkPolicy", "gateway"), "spec.podSelector.matchLabels.app~kubernetes~io/component", "gatewy"),
        ("network peers", ("NetworkPolicy", "gateway"), "spec.ingress.0.from", GONE),
        ("network peers", ("NetworkPolicy", "gateway"), "spec.egress.0", {}),
        ("disruption", ("PodDisruptionBudget", "gateway"), "spec.maxUnavailable", GONE),
        ("disruption", ("PodDisruptionBudget", "gateway"), "spec.selector.matchLabels", {"app": "other"}),
        ("scaling", ("HorizontalPodAutoscaler", "gateway"), "spec.metrics.0", GONE),
        ("scaling", ("HorizontalPodAutoscaler", "gateway"), "spec.scaleTargetRef.name", "gatewy"),
        ("scaling", ("HorizontalPodAutoscaler", "gateway"), "spec.minReplicas", 21),
        ("jobs", PIPELINE, "spec.concurrencyPolicy", GONE),
        ("jobs", PIPELINE, "spec.schedule", "0 3 * * 8"),
        ("jobs", PIPELINE, "spec.timeZone", GONE),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_refused_by_it(builds, rule, kind_and_name, path, value):
    found = check.wrong(broken(builds, "base", *kind_and_name, path, value))
    assert [finding for finding in found if finding.startswith(f"base: {rule}: ")], found


def test_an_overlay_must_name_its_images(builds):
    found = check.wrong(broken(builds, "overlays/production", *GATEWAY, f"{CONTAINER}.image", "llmops-gateway"))
    assert len(found) == 1
    assert "images: gateway/gateway: image 'llmops-gateway' needs a tag" in found[0]


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("gateway", "spec.endpoints.0.port", "metrics"),
        ("gateway", "spec.endpoints.0.authorization.credentials.key", "key"),
        ("monitor", "spec.endpoints.0.fallbackProtocol", "PrometheusText0.0.4"),
    ],
)
def test_a_service_monitor_that_would_scrape_nothing_is_refused(builds, name, path, value):
    assert check.wrong(broken(builds, "overlays/production", "ServiceMonitor", name, path, value))


def test_a_namespace_needs_its_policies_and_its_autoscaler(builds):
    for kind, rule in (("NetworkPolicy", "network"), ("HorizontalPodAutoscaler", "scaling")):
        rest = [each for each in builds["base"].all if each["kind"] != kind]
        found = check.wrong(check.Manifests("base", rest, deployed=False))
        assert any(finding.startswith(f"base: {rule}: ") for finding in found), found


def helm(*arguments):
    command = [check.BIN / "helm", "template", "llmops", FOLDER / "chart", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_values_reach_the_objects_of_the_chart():
    values = (
        "images.gateway=registry.example/llmops-gateway@sha256:" + "a" * 64,
        "settings.LLMOPS_RETENTION_DAYS=30",
        "gateway.minReplicas=3",
        "schedules.evaluation=null",
        "networkPolicies=false",
        "imagePullSecrets[0].name=registry",
    )
    flags = [part for value in values for part in ("--set-string" if "DAYS" in value else "--set", value)]
    objects = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(helm(*flags).stdout)}
    pod = objects[GATEWAY]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"].endswith("a" * 64)
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert objects["ConfigMap", "llmops-settings"]["data"]["LLMOPS_RETENTION_DAYS"] == "30"
    assert objects["HorizontalPodAutoscaler", "gateway"]["spec"]["minReplicas"] == 3
    assert ("CronJob", "evaluation") not in objects
    assert not [kind for kind, _ in objects if kind == "NetworkPolicy"]


def test_a_misspelt_value_is_refused_by_the_chart():
    refused = helm("--set", "gateway.minReplica=3")
    assert refused.returncode != 0
    assert "minReplica" in refused.stderr
