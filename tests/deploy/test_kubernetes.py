"""The Kubernetes manifests: their schemas, what they refer to, and a real server with their options."""

import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from serving.config import Config
from serving.lifecycle.server import CLOSE_SECONDS
from serving.lifecycle.trial import MAX_CONCURRENT
from serving.repository.manifest import FORMAT_VERSION
from tests.deploy.command import OFFRAMP, with_values
from tests.deploy.dockerfile import all_instructions, last, read_dockerfile
from tests.deploy.manifests import FOLDER, Resource, only, pods, read_file, read_resources
from tests.end_to_end.server_process import ServerProcess
from tests.serving import scripted_model

DOCKERFILE = FOLDER.parents[1] / "Dockerfile"
KUBERNETES = ("1.29", "1.37")
"""The oldest and the newest version whose schemas the manifests match."""
OTHER_API_GROUPS = ("serving.kserve.io", "monitoring.coreos.com")
OPTIONAL = {"service-monitor.yaml"}
SERVER_MEMORY = 500 * 2**20
"""Memory of the server itself with a model such as the released one, in bytes."""
UNITS = {"Mi": 2**20, "Gi": 2**30}


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_resource_matches_the_schema_of_kubernetes(version: str) -> None:
    checked = [
        kubernetes_validate.validate(resource, version, strict=True)
        for resource in read_resources()
        if not resource["apiVersion"].startswith(OTHER_API_GROUPS)
    ]

    assert checked == [version] * 8


@pytest.mark.parametrize("kind", ["Deployment", "InferenceService"])
def test_the_pod_matches_the_schema_of_kubernetes(kind: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pods()[kind]}

    for version in KUBERNETES:
        kubernetes_validate.validate(pod, version, strict=True)


def test_the_schema_refuses_an_unknown_field() -> None:
    service = {**only("Service"), "spec": {**only("Service")["spec"], "clusterIp": "None"}}

    with pytest.raises(kubernetes_validate.ValidationError, match="clusterIp"):
        kubernetes_validate.validate(service, KUBERNETES[-1], strict=True)


def test_the_kustomization_lists_every_file_that_is_not_optional() -> None:
    (kustomization,) = read_file(FOLDER / "kustomization.yaml")

    files = {file.name for file in FOLDER.glob("*.yaml")} - OPTIONAL - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    assert kustomization["namespace"] == only("Namespace")["metadata"]["name"]


def test_the_kustomization_names_the_image_that_the_readme_pushes() -> None:
    (kustomization,) = read_file(FOLDER / "kustomization.yaml")
    (image,) = kustomization["images"]
    readme = (FOLDER / "README.md").read_text()

    assert pods()["Deployment"]["containers"][0]["image"].split(":")[0] == image["name"]
    assert f"docker push {image['newName']}:{image['newTag']}\n" in readme
    assert "set image" not in readme


def test_the_resources_of_kserve_have_the_fields_of_its_definitions() -> None:
    runtime, service = only("ServingRuntime"), only("InferenceService")
    model = service["spec"]["predictor"]["model"]

    assert runtime["apiVersion"] == "serving.kserve.io/v1alpha1"
    assert set(runtime["spec"]) == {
        "supportedModelFormats",
        "protocolVersions",
        "annotations",
        "containers",
        "volumes",
    }
    assert [container["name"] for container in runtime["spec"]["containers"]] == ["kserve-container"]
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert set(service["spec"]) == {"predictor"}
    assert set(model) == {"modelFormat", "runtime", "protocolVersion", "storageUri"}


def test_the_inference_service_names_what_the_runtime_supports() -> None:
    runtime = only("ServingRuntime")
    model = only("InferenceService")["spec"]["predictor"]["model"]
    formats = runtime["spec"]["supportedModelFormats"]

    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"] in [{"name": item["name"], "version": item["version"]} for item in formats]
    assert model["modelFormat"]["version"] == str(FORMAT_VERSION)
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["storageUri"].removeprefix("pvc://") in _claims()


@pytest.mark.parametrize("kind", ["Deployment", "InferenceService"])
def test_a_server_with_the_options_answers_the_probes_and_drains(kind: str, tmp_path: Path) -> None:
    pod = pods()[kind]
    container = pod["containers"][0]
    (tmp_path / "state").mkdir()
    scripted_model.publish(tmp_path / "models")
    values = {
        "--model-repository": str(tmp_path / "models"),
        "--state-dir": str(tmp_path / "state"),
        "--grpc-port": "0",
        "--metrics-port": "0",
    }

    assert container["command"] == ["offramp", "serve"]
    with ServerProcess(
        tmp_path / "models",
        *with_values(container["args"], values),
        program=(*OFFRAMP, "serve"),
        config=_settings(),
        trials=True,
    ) as server:
        assert server.address.startswith(f"{_option(container, 'host')}:")
        port = server.metrics_address.rpartition(":")[2]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            path = container[probe]["httpGet"]["path"]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                assert answer.status == 200
        code, log = server.stop()

    assert code == 0
    assert any('"event": "draining"' in line for line in log)


@pytest.mark.parametrize("kind", ["Deployment", "InferenceService"])
def test_the_grace_period_exceeds_the_drain(kind: str) -> None:
    pod = pods()[kind]
    hook = (
        pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {"command": ["sleep", "0"]})
    )

    command, seconds = hook["command"]

    drain_seconds = Config.model_validate(_settings()).server.drain_seconds
    assert command == "sleep"
    assert pod["terminationGracePeriodSeconds"] >= int(seconds) + drain_seconds + 2 * CLOSE_SECONDS


@pytest.mark.parametrize("kind", ["Deployment", "InferenceService"])
def test_the_settings_fit_the_limits(kind: str) -> None:
    limits = pods()[kind]["containers"][0]["resources"]["limits"]
    config = Config.model_validate(_settings())

    assert config.engine.workers == config.engine.idle_intra_op_threads == int(limits["cpu"])
    assert MAX_CONCURRENT * config.trial.max_memory_bytes + SERVER_MEMORY <= _bytes(limits["memory"])


@pytest.mark.parametrize("kind", ["Deployment", "InferenceService"])
def test_the_options_name_ports_and_folders_of_the_pod(kind: str) -> None:
    pod = pods()[kind]
    container = pod["containers"][0]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    grpc, metrics = container["ports"]
    config = Path(_option(container, "config"))

    assert _option(container, "grpc-port") == str(grpc["containerPort"])
    assert _option(container, "metrics-port") == str(metrics["containerPort"])
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in (metrics["name"], metrics["containerPort"])
    assert "readOnly" not in mounts[_option(container, "state-dir")]
    assert mounts[str(config.parent)]["name"] == "settings"
    assert config.name in only("ConfigMap")["data"]
    if kind == "Deployment":  # KServe adds this mount itself
        assert mounts[_option(container, "model-repository")]["readOnly"]


@pytest.mark.parametrize("kind", ["Deployment", "InferenceService"])
def test_every_volume_exists(kind: str) -> None:
    pod = pods()[kind]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claims = [
        item["persistentVolumeClaim"]["claimName"]
        for item in volumes.values()
        if len(item) == 2 and "persistentVolumeClaim" in item
    ]
    maps = [volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume]

    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == set(volumes)
    assert set(claims) <= _claims()
    assert maps == [only("ConfigMap")["metadata"]["name"]]


@pytest.mark.parametrize("kind", ["Deployment", "InferenceService"])
def test_the_container_has_no_privileges(kind: str) -> None:
    pod = pods()[kind]
    security = {**pod["securityContext"], **pod["containers"][0]["securityContext"]}
    user = last(all_instructions(read_dockerfile(DOCKERFILE.read_text()), "serving-cpu"), "USER").arguments

    assert security["runAsNonRoot"] is security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert f"{security['runAsUser']}:{security['fsGroup']}" == user
    # Otherwise variables of Services named offramp-* would be read as settings.
    assert pod["enableServiceLinks"] is False


def test_selectors_and_ports_match_the_pods() -> None:
    deployment = only("Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    ports = {port["name"] for port in deployment["template"]["spec"]["containers"][0]["ports"]}
    service, policy = only("Service"), only("NetworkPolicy")["spec"]
    monitor = only("ServiceMonitor")["spec"]

    assert deployment["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert service["spec"]["clusterIP"] == "None"
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports
    assert only("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert policy["podSelector"]["matchLabels"] == labels
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["grpc", "metrics"]
    assert monitor["selector"]["matchLabels"] == service["metadata"]["labels"]
    assert [end["port"] for end in monitor["endpoints"]] == ["metrics"]


def test_the_policy_in_comments_lets_the_server_reach_dns_and_the_collector() -> None:
    text = (FOLDER / "network-policy.yaml").read_text()
    commented = text[text.index("  # egress:") : text.index("  ingress:")]
    enabled = text.replace("  egress: []\n", "").replace(commented, commented.replace("  # ", "  "))
    policy = yaml.safe_load(enabled)
    dns, collector = policy["spec"]["egress"]

    for version in KUBERNETES:
        kubernetes_validate.validate(policy, version, strict=True)
    assert only("NetworkPolicy")["spec"]["egress"] == []
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert [port["port"] for port in collector["ports"]] == [4317]


def _option(container: Resource, name: str) -> str:
    """Return the value of `--name=value` in the arguments of a container."""
    (value,) = [str(text).partition("=")[2] for text in container["args"] if text.startswith(f"--{name}=")]
    return value


def _settings() -> dict[str, dict[str, Any]]:
    return tomllib.loads(only("ConfigMap")["data"]["serving.toml"])


def _claims() -> set[str]:
    return {item["metadata"]["name"] for item in read_resources() if item["kind"] == "PersistentVolumeClaim"}


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]
