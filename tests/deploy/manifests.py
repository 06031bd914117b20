"""Reads the manifests of deploy/kubernetes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"

Resource = dict[str, Any]


def read_resources(folder: Path = FOLDER) -> list[Resource]:
    """Return all resources below a folder, without Kustomizations."""
    files = sorted(folder.rglob("*.yaml"))
    resources = [resource for file in files for resource in read_file(file)]
    return [resource for resource in resources if resource["kind"] != "Kustomization"]


def read_file(file: Path) -> Iterator[Resource]:
    """Yield the resources in a file."""
    yield from yaml.safe_load_all(file.read_text())


def only(kind: str) -> Resource:
    """Return the only resource of a kind."""
    (resource,) = [resource for resource in read_resources() if resource["kind"] == kind]
    return resource


def pods() -> dict[str, Resource]:
    """Return the specifications of the pods that run the server, by the kind that defines them.

    KServe makes a pod from the containers and volumes of the runtime and the other fields of the predictor.
    """
    runtime, predictor = only("ServingRuntime")["spec"], only("InferenceService")["spec"]["predictor"]
    own_fields = {"model", "minReplicas", "maxReplicas"}
    return {
        "Deployment": only("Deployment")["spec"]["template"]["spec"],
        "InferenceService": {
            "containers": runtime["containers"],
            "volumes": runtime["volumes"],
            **{name: value for name, value in predictor.items() if name not in own_fields},
        },
    }
