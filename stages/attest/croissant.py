"""Each corpus as a Croissant 1.1 data set: the archives that it was read from, the files that it became, and their columns."""

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
_SAMPLE = {
    "sample_id": "name of the sample: data set, document and number",
    "dataset": "data set of the mix",
    "template": "wording that was used",
    "lang": "language of the answer",
    "licence": "SPDX expression, or a LicenseRef that the register explains",
    "doc_id": "the training document or labelled row behind the sample",
    "prompt": "what is shown",
    "target": "what is asked for",
}
_TYPES = {".gz": "application/gzip", ".tgz": "application/gzip", ".zip": "application/zip", ".whl": "application/zip"}


def datasets(params: Params, evidence: Evidence) -> dict[str, dict[str, Any]]:
    """The descriptions, as JSON-LD, by name: what was fetched, what was trained on, the labelled rows of the instruction mix.

    Files are addressed from the folder that holds the corpus in question: a loader wants the description to lie there.
    """
    name = params.name
    labelled = sorted({row["licence"] for row in evidence.packages})
    fetched = sorted({source["licence"] for source in evidence.sources})
    return {
        "corpus": _described(params, "corpus", fetched, evidence.sources)
        | {"description": f"The text that {name} was built from, as fetched, before any filter."}
        | _contents(evidence.sources, evidence.manifests["corpus"], "documents/*.parquet", SCHEMA.names),
        "training": _described(
            params, "training", sorted({row["licence"] for row in evidence.train} - set(labelled)), evidence.train
        )
        | {"description": f"The text that {name} was trained on: cleaned, without duplicates, decontaminated."}
        | _contents(evidence.sources, evidence.manifests["decontaminate"], "train/documents/*.parquet", SCHEMA.names),
        "instructions": _described(params, "instructions", labelled or fetched, evidence.sources)
        | {"description": f"The instruction samples of {name}: prompts worded from labelled packages and from training text."}
        | _contents(evidence.packages, evidence.manifests["instruct"], "samples.parquet", list(_SAMPLE)),
    }


def _described(params: Params, name: str, licences: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Name, rights and version of a data set."""
    described = {
        "@context": _context(),
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": f"{params.name}-{name}",
        "license": [_licence_url(licence) for licence in licences],
        "creator": {"@type": "sc:Organization", "name": params.creator},
        "datePublished": params.timestamp[:10],
        "version": params.version,
        "inLanguage": sorted({row["lang"] for row in rows}),
        "isLiveDataset": False,
        "citeAs": f"{params.creator}: {params.name} {name}, version {params.version}, {params.timestamp[:4]}",
    }
    return described | ({"url": params.homepage} if params.homepage else {})


def _contents(origins: list[dict[str, Any]], manifest: dict[str, Any], pattern: str, columns: list[str]) -> dict[str, Any]:
    """The archives, the files that match, and the columns of their rows."""
    files = {path: entry for path, entry in manifest["files"].items() if PurePosixPath(path).match(pattern)}
    return {
        "distribution": [
            *_archives(origins),
            *(_file(path, entry) for path, entry in sorted(files.items())),
            _files(pattern),
        ],
        "recordSet": [_records(columns)],
    }


def _archives(origins: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One FileObject per archive that sources or labelled rows were read from, however many it holds."""
    found: dict[str, dict[str, Any]] = {}
    for source in origins:
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
    package, file = source.get("package") or source.get("name"), source.get("file")
    if source["kind"] == "npm":
        return f"https://registry.npmjs.org/{package}/-/{file}"
    if source["kind"] == "pypi":
        part = str(file).removesuffix(".whl").split("-")[-3] if str(file).endswith(".whl") else "source"
        return f"https://files.pythonhosted.org/packages/{part}/{str(package)[0]}/{package}/{file}"
    return str(source.get("url") or source.get("path") or source["id"])


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


def _files(pattern: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": "rows",
        "name": "rows",
        "encodingFormat": "application/x-parquet",
        "includes": pattern,
    }


def _records(columns: list[str]) -> dict[str, Any]:
    identity = columns[0]
    return {
        "@type": "cr:RecordSet",
        "@id": "record",
        "name": "record",
        "description": "One record per row.",
        "key": {"@id": f"record/{identity}"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"record/{name}",
                "name": name,
                "description": (_MEANING | _SAMPLE)[name],
                "dataType": "sc:Text",
                "source": {"fileSet": {"@id": "rows"}, "extract": {"column": name}},
            }
            for name in columns
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
