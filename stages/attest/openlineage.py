"""OpenLineage (2-0-2): one COMPLETE event per stage, with the digests of its manifests as versions of its inputs and output."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.attest.evidence import Evidence, Params

_EVENT = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_VERSION = "https://openlineage.io/spec/facets/1-0-0/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"


def lines(params: Params, evidence: Evidence) -> Iterator[str]:
    """The events as JSON lines, in the order of the graph."""
    for stage in evidence.manifests:
        yield json.dumps(event(params, evidence, stage), ensure_ascii=False, sort_keys=True) + "\n"


def event(params: Params, evidence: Evidence, stage: str) -> dict[str, Any]:
    """The end of one stage's run. The run's id follows from its output: the same output is the same run."""
    digest = evidence.digests[stage]
    inputs = {Path(dep).name: version for dep, version in evidence.manifests[stage]["inputs"].items()}
    return {
        "eventType": "COMPLETE",
        "eventTime": params.timestamp,
        "producer": params.namespace,
        "schemaURL": _EVENT,
        "run": {"runId": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{params.namespace}/run/{stage}/{digest}"))},
        "job": {"namespace": params.namespace, "name": f"stages.{stage}"},
        "inputs": [_dataset(params, name, version) for name, version in inputs.items()],
        "outputs": [_dataset(params, stage, digest)],
    }


def _dataset(params: Params, stage: str, version: str) -> dict[str, Any]:
    facet = {"_producer": params.namespace, "_schemaURL": _VERSION, "datasetVersion": version}
    return {"namespace": params.namespace, "name": f"data/{stage}", "facets": {"version": facet}}
