"""The AI bill of materials (CycloneDX 1.6, JSON): the model, its earlier checkpoints, its exports, what its data came from."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from stages._manifest import sha256_json
from stages.attest.evidence import Checkpoint, Evidence, Export, Params


def bom(params: Params, evidence: Evidence) -> dict[str, Any]:
    """The bill of materials; its serial number follows from the digests of the stages."""
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"{params.namespace}/bom/{sha256_json(evidence.digests)}")
    model = evidence.model
    others = [item for item in evidence.checkpoints if item is not model]
    data = [_reference(entry) for entry in _origins(evidence)]
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
            *(_data(entry, evidence) for entry in _origins(evidence)),
        ],
        "dependencies": [
            *({"ref": _reference(item), "dependsOn": data} for item in evidence.checkpoints),
            *({"ref": _reference(item), "dependsOn": [_reference(item.parent)]} for item in evidence.exports),
            *({"ref": reference} for reference in data),
        ],
    }


def _origins(evidence: Evidence) -> list[dict[str, Any]]:
    """Sources of the corpus, then labelled packages of the instruction mix."""
    return [*evidence.sources, *evidence.packages]


def _reference(item: Checkpoint | Export | dict[str, Any]) -> str:
    if isinstance(item, dict):
        return f"{'package' if 'datasets' in item else 'source'}:{item['id']}"
    return f"checkpoint:{item.name}" if isinstance(item, Checkpoint) else f"export:{item.scheme}"


def _model(params: Params, evidence: Evidence, item: Checkpoint | Export) -> dict[str, Any]:
    if isinstance(item, Checkpoint):
        consumed = evidence.consumed[item.name]
        properties = item.segment.checkpoint_manifest() | {
            "parameters": item.parameters,
            "merkle_root": evidence.training.root,
            "consumed_documents": consumed.documents.documents,
            "consumed_merkle_root": consumed.documents.root,
            "consumed_order_root": consumed.order,
        }
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
            "datasets": [{"ref": _reference(entry)} for entry in _origins(evidence)],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [{"type": name, "value": _text(value)} for name, value in _flat(evidence.metrics)]
        },
    }


def _data(entry: dict[str, Any], evidence: Evidence) -> dict[str, Any]:
    """A source or labelled package as fetched; the counts in its description are of what was left of it for training."""
    rows = [row for row in evidence.train if row["source"] == entry["id"]]
    left = {name: sum(row[name] for row in rows) for name in ("documents", "tokens")}
    component = {
        "type": "data",
        "bom-ref": _reference(entry),
        "name": entry["id"],
        "description": str(entry.get("rights") or ""),
        "licenses": [{"expression": entry["licence"]}],
        "hashes": [{"alg": "SHA-256", "content": entry["sha256"]}],
        "data": [{"type": "dataset", "name": entry["id"], "description": "; ".join(_counts(entry, left))}],
    }
    if entry.get("version"):
        component["version"] = entry["version"]
    if entry["kind"] in ("pypi", "npm"):
        name = str(entry.get("package") or entry["name"]).replace("@", "%40")
        component["purl"] = f"pkg:{entry['kind']}/{name}@{entry['version']}"
    elif entry.get("url"):
        component["externalReferences"] = [{"type": "distribution", "url": entry["url"]}]
    return component


def _counts(entry: dict[str, Any], left: dict[str, int]) -> list[str]:
    if "datasets" in entry:
        read = f"{entry['samples']} instruction samples, of {', '.join(entry['datasets'])}"
    else:
        read = f"{entry['documents']} documents, {entry['bytes']} bytes of text read"
    return [read, f"{left['documents']} documents, {left['tokens']} tokens in the training set"]


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested results as dotted names, in their order."""
    for key, item in sorted(value.items()):
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _text(value: object) -> str:
    return "" if value is None else str(value)
