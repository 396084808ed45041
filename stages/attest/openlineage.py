"""OpenLineage (2-0-2) for the whole graph: a START and a COMPLETE event of each stage's run, a JobEvent of what follows them.

Digests of manifests are the versions of data sets, those of archives the versions of what was fetched, so the events alone tell
which bytes made which. The attest stage cannot know the digest of its own output, nor what comes after it: those are jobs.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.attest.evidence import Evidence, Params

FOLLOWING = ("attest", "report")
"""The stages that read the output of all others, and of each other in this order."""
_SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs"
_FACETS = "https://openlineage.io/spec/facets"
_VERSION = f"{_FACETS}/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"
_STATISTICS = f"{_FACETS}/1-0-2/OutputStatisticsOutputDatasetFacet.json#/$defs/OutputStatisticsOutputDatasetFacet"


def lines(params: Params, evidence: Evidence) -> Iterator[str]:
    """The events as JSON lines, in the order of the graph."""
    for stage in evidence.manifests:
        for kind in ("START", "COMPLETE"):
            yield _line(run_event(params, evidence, stage, kind))
    before = [f"data/{stage}" for stage in evidence.manifests]
    for stage in FOLLOWING:
        yield _line(job_event(params, evidence, stage, before))
        before.append(f"data/{stage}")


def run_event(params: Params, evidence: Evidence, stage: str, kind: str) -> dict[str, Any]:
    """Begin or end of one stage's run. The run's id follows from its output: the same output is the same run."""
    digest, manifest = evidence.digests[stage], evidence.manifests[stage]
    fetched = {"corpus": evidence.sources, "instruct": evidence.packages}.get(stage, [])
    inputs = [_dataset(params, f"data/{Path(dep).name}", version) for dep, version in manifest["inputs"].items()]
    inputs += [_dataset(params, f"archive/{entry['id']}", entry["sha256"]) for entry in fetched]
    files = manifest["files"].values()
    output = _dataset(params, f"data/{stage}", digest)
    size = {"size": sum(entry["bytes"] for entry in files), "fileCount": len(files)}
    output["outputFacets"] = {"outputStatistics": {"_producer": params.namespace, "_schemaURL": _STATISTICS, **size}}
    return {
        "eventType": kind,
        **_event(params, "RunEvent", stage),
        "run": {"runId": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{params.namespace}/run/{stage}/{digest}"))},
        "inputs": inputs,
        "outputs": [output] if kind == "COMPLETE" else [],
    }


def job_event(params: Params, evidence: Evidence, stage: str, inputs: list[str]) -> dict[str, Any]:
    """A stage of which no run has ended yet: what it reads, with the versions that there are, and what it writes."""
    return {
        **_event(params, "JobEvent", stage),
        "inputs": [_dataset(params, path, evidence.digests.get(Path(path).name)) for path in inputs],
        "outputs": [_dataset(params, f"data/{stage}", None)],
    }


def _event(params: Params, kind: str, stage: str) -> dict[str, Any]:
    return {
        "eventTime": params.timestamp,
        "producer": params.namespace,
        "schemaURL": f"{_SPEC}/{kind}",
        "job": {"namespace": params.namespace, "name": f"stages.{stage}"},
    }


def _dataset(params: Params, name: str, version: str | None) -> dict[str, Any]:
    facet = {"_producer": params.namespace, "_schemaURL": _VERSION, "datasetVersion": version}
    return {"namespace": params.namespace, "name": name, "facets": {"version": facet} if version else {}}


def _line(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False, sort_keys=True) + "\n"
