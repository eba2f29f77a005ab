"""The manifests, validated against the schemas of KubeRay's operator."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from flows.submit import kuberay_manifest
from pipeline.config import Analysis
from pipeline.errors import InputError

CRDS = Path(os.environ.get("ONTOGENY_KUBERAY_CRDS") or "absent")
needs_crds = pytest.mark.skipif(
    not CRDS.is_dir(),
    reason="ONTOGENY_KUBERAY_CRDS names no folder with ray.io_rayclusters.yaml and …_rayjobs.yaml",
)

ON_S3 = {
    "checkpoints": "s3://runs/my-model",
    "store": "s3://runs/My model_2.zarr",
    "inputs": {"text": {"kind": "array", "path": "s3://runs/ids.npy"}},
    "measures": ["token_loss"],
    "workers": {"count": 6, "cpus": 1.5, "gpus": 0.4, "device": "cuda"},
}


def analysis(**changes: Any) -> Analysis:
    return Analysis.model_validate(ON_S3 | changes)


def strict(schema: Any) -> Any:
    """Return the schema with unknown fields refused wherever it does not allow them explicitly."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(part) for key, part in schema.items()}
    open_ended = made.get("additionalProperties") or made.get(
        "x-kubernetes-preserve-unknown-fields"
    )
    if isinstance(made.get("properties"), dict) and not open_ended:
        made["additionalProperties"] = False
    if made.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    return made


@pytest.fixture(scope="module")
def validators() -> dict[str, Draft202012Validator]:
    made = {}
    for path in CRDS.glob("ray.io_ray*.yaml"):
        definition = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]
        (version,) = (found for found in definition["versions"] if found["name"] == "v1")
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        made[definition["names"]["kind"]] = Draft202012Validator(schema)
    return made


def faults(validators: dict[str, Draft202012Validator], manifest: dict[str, Any]) -> list[str]:
    return [error.message for error in validators[manifest["kind"]].iter_errors(manifest)]


def cluster_of(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"].get("rayClusterSpec", manifest["spec"])


@needs_crds
@pytest.mark.parametrize("standing", [False, True])
@pytest.mark.parametrize("options", [{}, {"namespace": "ml", "volumes": [("runs", "/runs")]}])
def test_the_operator_knows_every_field(
    validators: dict[str, Draft202012Validator],
    standing: bool,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.ml:4200/api")
    image = "registry/ontogeny:1"
    text = kuberay_manifest(analysis(), image, nodes=2, standing=standing, **options)
    manifest = list(yaml.safe_load_all(text))[-1]
    assert manifest["kind"] == ("RayCluster" if standing else "RayJob")
    assert faults(validators, manifest) == []

    container = cluster_of(manifest)["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    for place, right, typo in (
        (cluster_of(manifest), "authOptions", "authOption"),
        (cluster_of(manifest)["headGroupSpec"], "rayStartParams", "rayStartParam"),
        (container, "envFrom", "envfrom"),
        (container["envFrom"][0]["secretRef"], "name", "nam"),
    ):
        place[typo] = place.pop(right)
        assert any(repr(typo) in fault for fault in faults(validators, manifest))
        place[right] = place.pop(typo)
    assert faults(validators, manifest) == []


def test_a_job_carries_its_analysis_its_gpus_its_token_and_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-print")
    text = kuberay_manifest(analysis(), "registry/ontogeny:1", nodes=2)
    assert "do-not-print" not in text
    config_map, job = yaml.safe_load_all(text)
    assert Analysis.model_validate(yaml.safe_load(config_map["data"]["analysis.yaml"])) == (
        analysis()
    )
    cluster = job["spec"]["rayClusterSpec"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    spec = cluster["headGroupSpec"]["template"]["spec"]
    assert spec["volumes"][0]["configMap"]["name"] == config_map["metadata"]["name"]
    assert job["spec"]["entrypoint"].endswith(
        head["volumeMounts"][0]["mountPath"] + "/analysis.yaml"
    )
    assert cluster["authOptions"] == {"mode": "token"}
    (group,) = cluster["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    # Three workers on each of two pods, two workers to a GPU, 1.5 CPUs each.
    assert group["replicas"] == 2
    assert worker["resources"]["limits"] == {"cpu": 5, "memory": "16Gi", "nvidia.com/gpu": 2}
    assert group["rayStartParams"]["num-gpus"] == "2"
    assert worker["envFrom"] == [{"secretRef": {"name": "ontogeny-s3", "optional": False}}]
    assert len(job["metadata"]["name"]) <= 47


def test_what_pods_do_not_see_is_refused() -> None:
    local = analysis(store="/data/my-model.zarr")
    with pytest.raises(InputError, match=r"/data/my-model.zarr: .*--volume CLAIM:PATH"):
        kuberay_manifest(local, "registry/ontogeny:1")
    assert 'claimName: "data"' in kuberay_manifest(
        local, "registry/ontogeny:1", volumes=[("data", "/data")]
    )
