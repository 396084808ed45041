"""Removes exact and near duplicates and records which document stands for which.

Reads: data/clean/documents/*.parquet
Writes: data/dedup/documents/*.parquet (the same shards), data/dedup/clusters.parquet
Params: dedup
Promises: a removed document equals its survivor or has an exact Jaccard similarity of at least `threshold` with it.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import pyarrow as pa

from stages import _documents, _ngrams
from stages._params import Fraction, OneOf, Positive, Seed
from stages._runner import StageError, StageIO, run_stage

CLUSTERS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("cluster", pa.string()),
        ("survivor", pa.bool_()),
        ("kind", pa.string()),
        ("jaccard", pa.float64()),
        ("group", pa.string()),
    ]
)
_CHUNK = 2048  # shingles hashed at once: 2048 x 128 values of 4 bytes stay in the cache


@dataclass(frozen=True)
class Params:
    """Parameters of this stage."""

    ngram: dict[str, Positive]
    permutations: Positive
    bands: Positive
    rows: Positive
    scheme: Annotated[str, OneOf("affine32", "affine64", "legacy")]
    seed: Seed
    threshold: Fraction

    def __post_init__(self) -> None:
        if self.bands * self.rows > self.permutations:
            raise ValueError(f"bands x rows = {self.bands * self.rows} exceeds permutations = {self.permutations}")


class Document(NamedTuple):
    """What this stage needs of a document."""

    doc_id: str
    lang: str
    text: str


@dataclass(frozen=True)
class Member:
    """One row of clusters.parquet.

    `cluster` is the survivor that stands for the document; `jaccard` the similarity with it. `group` names the connected
    component of similar documents (by its first survivor): a group may keep several survivors, a chain of look-alikes whose
    ends resemble each other below the threshold.
    """

    doc_id: str
    cluster: str
    survivor: bool
    kind: str
    jaccard: float
    group: str


def fingerprint(text: str) -> bytes:
    """SHA-256 of the text without case, punctuation and blanks; of the text itself where nothing else remains."""
    normal = re.sub(r"[\W_]+", "", text.casefold())
    return hashlib.sha256((normal or text).encode()).digest()


def jaccard(a: set[str], b: set[str]) -> float:
    """Jaccard similarity of two non-empty sets."""
    common = len(a & b)
    return common / (len(a) + len(b) - common)


def seniority(document: Document) -> tuple[int, str]:
    """Sort key of survival: the longest text first, then the smallest doc_id."""
    return -len(document.text), document.doc_id


def exact_groups(documents: Iterable[Document]) -> list[list[Document]]:
    """Documents grouped by language and `fingerprint`, each group in order of `seniority`."""
    groups: dict[tuple[str, bytes], list[Document]] = {}
    for document in documents:
        groups.setdefault((document.lang, fingerprint(document.text)), []).append(document)
    return [sorted(group, key=seniority) for group in groups.values()]


def candidate_pairs(documents: Iterable[Document], params: Params) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of documents that agree in a band of their MinHash signatures (datasketch).

    At 32 bands of 4 rows a pair of Jaccard similarity 0.8 is found with probability 1 - (1 - 0.8^4)^32 > 0.9999. Documents of
    different languages are never compared.
    """
    from datasketch import MinHash, MinHashLSH

    empty = MinHash(num_perm=params.permutations, seed=params.seed, scheme=params.scheme)
    layout = (params.bands, params.rows)
    indexes = {lang: MinHashLSH(num_perm=params.permutations, params=layout) for lang in params.ngram}
    for number, document in enumerate(documents):
        shingles = [item.encode() for item in _ngrams.shingles(document.text, params.ngram[document.lang])]
        signature = empty.copy()
        for start in range(0, len(shingles), _CHUNK):
            signature.update_batch(shingles[start : start + _CHUNK])
        index = indexes[document.lang]
        yield from ((other, number) for other in sorted(index.query(signature)))
        index.insert(number, signature)


def components(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Connected components of two or more nodes, by union-find; nodes and components in ascending order."""
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    found: dict[int, list[int]] = {}
    for node in sorted(parent):
        found.setdefault(root(node), []).append(node)
    return [found[key] for key in sorted(found)]


def elect(ordered: list[int], similarity: Callable[[int, int], float], threshold: float) -> Iterator[tuple[int, int, float]]:
    """(member, survivor, similarity) for every member of a component, given in order of seniority.

    Similarity is not transitive: the first member takes with it only those that are similar to itself; the first of the
    rest does the same, until none is left.
    """
    while ordered:
        survivor, rest = ordered[0], []
        yield survivor, survivor, 1.0
        for member in ordered[1:]:
            value = similarity(survivor, member)
            if value >= threshold:
                yield member, survivor, value
            else:
                rest.append(member)
        ordered = rest


def find_clusters(documents: list[Document], params: Params, counts: Counter[str]) -> list[Member]:
    """One `Member` for every document that resembles another, sorted by group, cluster, survivor first."""
    groups = sorted(exact_groups(documents), key=lambda group: seniority(group[0]))
    heads = [group[0] for group in groups]

    @lru_cache(maxsize=4096)
    def shingles(number: int) -> set[str]:
        return _ngrams.shingles(heads[number].text, params.ngram[heads[number].lang])

    def similarity(a: int, b: int) -> float:
        return jaccard(shingles(a), shingles(b))

    def similar() -> Iterator[tuple[int, int]]:
        for pair in candidate_pairs(heads, params):
            counts["candidate_pairs"] += 1
            if similarity(*pair) >= params.threshold:
                counts["similar_pairs"] += 1
                yield pair

    near = components(similar())
    alone = set(range(len(heads))).difference(*near)
    members: list[Member] = []
    for component in [*near, *([number] for number in sorted(alone) if len(groups[number]) > 1)]:
        name = heads[component[0]].doc_id  # ascending numbers are descending seniority
        elected = list(elect(component, similarity, params.threshold))
        sizes = Counter(survivor for _, survivor, _ in elected)
        for number, survivor, value in elected:
            for document in groups[number]:
                survives = number == survivor and document is heads[number]
                exact = number == survivor and (not survives or sizes[survivor] == 1 < len(groups[number]))
                kind = "exact" if exact else "near"
                members.append(Member(document.doc_id, heads[survivor].doc_id, survives, kind, value, name))
    return sorted(members, key=lambda member: (member.group, member.cluster, not member.survivor, member.doc_id))


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Cluster all documents, then write the survivors shard by shard."""
    files = _documents.document_files(io.input("data/clean"))
    documents = [
        Document(row["doc_id"], _known_language(row, file.name, params), row["text"])
        for file in files
        for row in _documents.read_shard(file)
    ]
    work: Counter[str] = Counter()
    members = find_clusters(documents, params, work)
    removed = {member.doc_id: member.kind for member in members if not member.survivor}
    kept: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for file in io.track(files, "writing", total=len(files), unit="shards"):
        rows = list(_documents.read_shard(file))
        for row in rows:
            if row["doc_id"] in removed:
                lost[f"{row['source']}: {removed[row['doc_id']]}"] += 1
            else:
                kept[row["lang"]] += 1
        _documents.write_shard(io.output / "documents" / file.name, (row for row in rows if row["doc_id"] not in removed))
    _documents.write_table(io.output / "clusters.parquet", CLUSTERS, map(asdict, members))
    return {
        "documents_in": len(documents),
        "documents": kept.total(),
        "removed": len(removed),
        "removed_by_kind": dict(Counter(removed.values())),
        "removed_by_source": dict(lost),
        "languages": dict(kept),
        "clusters": len({member.cluster for member in members}),
        "groups": len({member.group for member in members}),
        "largest_cluster": max(Counter(member.cluster for member in members).values(), default=0),
        **work,
    }


def _known_language(row: dict[str, Any], file: str, params: Params) -> str:
    lang: str = row["lang"]
    if lang not in params.ngram:
        remedy = "add it to dedup.ngram"
        raise StageError(f"no n-gram length for language {lang!r}", file=file, row=row["doc_id"], remedy=remedy)
    return lang


if __name__ == "__main__":
    run_stage("dedup", Params, run)
