"""deploy/ fits the image, the settings and itself. `make lint` checks schemas."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from oxidicom.app.deadlines import ShutdownBudget
from oxidicom.settings import Settings, load
from tests.support.dockerfile import ROOT, environment, of_image

KUBERNETES = ROOT / "deploy" / "kubernetes"
LABELS = {"app.kubernetes.io/name": "oxidicom"}


def objects(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERNETES / name).read_text()))


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [
        one for path in KUBERNETES.glob("*.yaml") for one in objects(path.name)
        if one["kind"] == kind
    ]  # fmt: skip


def pod() -> dict[str, Any]:
    (workload,) = of_kind("StatefulSet")
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    (only,) = pod()["containers"]
    assert isinstance(only, dict)
    return only


def compose(service: str) -> dict[str, Any]:
    text = (ROOT / "deploy" / "compose.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(text)["services"][service]
    return found


def settings(given: dict[str, str]) -> Settings:
    """Return the settings that the image's process makes of this environment, which must not even
    warn."""
    read, warnings = load(environment() | given)
    assert not warnings
    return read


def of_compose() -> Settings:
    return settings(
        {
            name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", str(value))
            for name, value in compose("oxidicom")["environment"].items()
        }
    )


def of_replica(name: str) -> Settings:
    (plain,), (secret,) = of_kind("ConfigMap"), of_kind("Secret")
    own = {
        one["name"]: one["value"].replace("$(POD_NAME)", name)
        for one in container()["env"]
        if "value" in one
    }
    return settings(plain["data"] | secret["stringData"] | own)


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def shutdown(settings: Settings) -> float:
    """Return the seconds from SIGTERM to the end of the process."""
    return ShutdownBudget(associations_s=settings.drain_timeout).total_s


# ---- documentation -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "pattern"),
    [
        ("README.md", r"stop_grace_period: (\d+)s"),
        ("docs/deployment.md", r"--stop-timeout (\d+)"),
        ("docs/migration.md", r"`stop_grace_period` \(Kubernetes: [^)]*\) of (\d+) s"),
        ("docs/operations.md", r"terminationGracePeriodSeconds: (\d+)"),
    ],
)
def test_the_documentation_gives_it_time_to_drain(page: str, pattern: str) -> None:
    text = (ROOT / page).read_text()
    (grace,) = re.findall(pattern, text)
    before = sum(map(int, re.findall(r"preStop: \{sleep: \{seconds: (\d+)", text)))
    assert int(grace) > before + shutdown(of_compose())


# ---- compose -------------------------------------------------------------------------------------


def test_compose_allows_the_time_to_drain() -> None:
    grace = seconds(compose("oxidicom")["stop_grace_period"])
    assert grace > shutdown(of_compose())


def test_compose_publishes_the_image_s_ports_and_the_admin_port_to_nobody_else() -> None:
    dicom, admin = compose("oxidicom")["ports"]
    assert dicom == f"{of_compose().listener_port}:{of_image('EXPOSE')[0].split()[0]}"
    port = environment()["OXIDICOM_ADMIN_PORT"]
    assert admin == f"127.0.0.1:{port}:{port}"


def test_compose_starts_the_receiver_without_privileges() -> None:
    service = compose("oxidicom")
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["volumes"] == [f"files:{of_compose().files_root}"]


def test_compose_names_brokers_that_it_has() -> None:
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    values = json.dumps(compose("oxidicom")["environment"])
    for broker in ("rabbitmq", "nats", "otel-collector"):
        assert re.search(rf"\b{broker}:\d+", values), broker
        assert broker in services
    mounts = [one for service in services.values() for one in service.get("volumes", [])]
    for mounted in (one.split(":")[0] for one in mounts):
        assert mounted.startswith("./") or mounted in ("files", "rabbitmq", "redis")


# ---- Kubernetes ----------------------------------------------------------------------------------


def test_a_replica_has_time_to_drain() -> None:
    before = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = before + shutdown(of_replica("oxidicom-0"))
    assert pod()["terminationGracePeriodSeconds"] > needed


def test_replicas_share_files_and_no_state() -> None:
    one, other = of_replica("oxidicom-0"), of_replica("oxidicom-1")
    assert one.files_root == other.files_root == Path(environment()["OXIDICOM_FILES_ROOT"])
    assert one.state_dir != other.state_dir
    mounts = {one["mountPath"] for one in container()["volumeMounts"]}
    assert str(one.files_root) in mounts
    assert one.files_root in one.state_dir.parents  # and outlives the pod
    (claim,) = of_kind("PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    named = [one["persistentVolumeClaim"]["claimName"] for one in pod()["volumes"][:1]]
    assert named == [claim["metadata"]["name"]]


def test_ports_are_those_of_the_image() -> None:
    ports = {one["name"]: one["containerPort"] for one in container()["ports"]}
    replica = of_replica("oxidicom-0")
    assert ports == {"dicom": replica.listener_port, "admin": replica.admin_port}
    services = [port for one in of_kind("Service") for port in one["spec"]["ports"]]
    assert {one["targetPort"] for one in services} == set(ports)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        request = container()[probe]["httpGet"]
        assert request["port"] == "admin"
        assert request["path"] == ("/readyz" if probe == "readinessProbe" else "/livez")
    assert replica.admin_host == "0.0.0.0"  # or no probe would reach it


def test_selectors_match_the_pods() -> None:
    (workload,) = of_kind("StatefulSet")
    assert workload["spec"]["template"]["metadata"]["labels"].items() >= LABELS.items()
    assert workload["spec"]["selector"]["matchLabels"] == LABELS
    assert all(one["spec"]["selector"] == LABELS for one in of_kind("Service"))
    for kind, field in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        (one,) = of_kind(kind)
        assert one["spec"][field]["matchLabels"] == LABELS
    (autoscaler,) = of_kind("HorizontalPodAutoscaler")
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == workload["metadata"]["name"]
    (monitor,) = of_kind("ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"] == LABELS
    assert workload["spec"]["serviceName"] in [
        one["metadata"]["name"] for one in of_kind("Service")
    ]
    assert [one for one in of_kind("Service") if one["metadata"]["labels"] == LABELS]


def test_the_pods_keep_to_the_restricted_security_standard() -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    whole, own = pod()["securityContext"], container()["securityContext"]
    assert whole["runAsNonRoot"]
    assert f"{whole['runAsUser']}:{whole['runAsGroup']}" == of_image("USER")[0]
    assert whole["seccompProfile"]["type"] == "RuntimeDefault"
    assert own["allowPrivilegeEscalation"] is False
    assert own["readOnlyRootFilesystem"]
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert pod()["automountServiceAccountToken"] is False


def test_the_autoscaler_uses_an_existing_metric() -> None:
    (autoscaler,) = of_kind("HorizontalPodAutoscaler")
    (metric,) = autoscaler["spec"]["metrics"]
    source = (ROOT / "src/oxidicom/admin/metrics.py").read_text()
    assert f'"{metric["pods"]["metric"]["name"]}"' in source


def test_kustomize_takes_what_needs_nothing_else() -> None:
    (kustomization,) = objects("kustomization.yaml")
    named = set(kustomization["resources"])
    left = {path.name for path in KUBERNETES.glob("*.yaml")} - named - {"kustomization.yaml"}
    assert left == {"autoscaler.yaml", "servicemonitor.yaml", "secret.example.yaml"}
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    built = subprocess.run(
        ["kubectl", "kustomize", KUBERNETES], capture_output=True, text=True, check=True
    )
    kinds = sorted(one["kind"] for one in yaml.safe_load_all(built.stdout))
    assert kinds == sorted(one["kind"] for name in named for one in objects(name))
    assert "image: registry.example.org/oxidicom:0.1.0" in built.stdout
