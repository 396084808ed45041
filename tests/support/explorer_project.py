"""A crawl of any size as the explorer finds it: tables of documents, pieces, plan and journal, without texts and weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ledger.journal import Journal, Segment
from ledger.order import Order
from ledger.plan import DataPlan
from ledger.schedule import BatchRamp
from stages._documents import SCHEMA
from stages._manifest import sha256_file
from tests.support.ledger_project import REPOSITORY, STAGES, seal

ROW, EPOCHS, BATCH = 2000, 2, 64
_WORDS = np.array(
    ["amber", "cedar", "delta", "fjord", "grove", "harbor", "island", "kelp", "lagoon", "north", "orchard", "prairie"]
)
_LICENCES = ("CC-BY-4.0", "CC0-1.0", "LicenseRef-PublicDomain")


def make_crawl(root: Path, documents: int) -> DataPlan:
    """Write a project of about `documents` documents: most trained on, some held out, dropped or copies of others."""
    rng = np.random.default_rng(1)
    for stage in (*STAGES, "attest"):
        (root / "data" / stage).mkdir(parents=True)
    (root / "dvc.yaml").write_bytes((REPOSITORY / "dvc.yaml").read_bytes())
    (root / "takedowns.jsonl").touch()
    corpus = _corpus(documents, rng)
    (root / "data/corpus/documents").mkdir()
    pq.write_table(corpus, root / "data/corpus/documents/crawl-00000.parquet")
    fate = rng.choice(4, documents, p=[0.94, 0.02, 0.03, 0.01])
    length = np.maximum(12, rng.lognormal(6.2, 1.0, documents)).astype(np.int64)
    _fates(root, corpus, fate)
    for split, number in (("train", 0), ("heldout", 1)):
        (chosen,) = np.nonzero(fate == number)
        table = corpus.take(pa.array(chosen)).select(["doc_id", "source", "lang", "licence"])
        table = table.append_column("doc_index", pa.array(np.arange(len(chosen))))
        table = table.append_column("length", pa.array(length[chosen], pa.int32()))
        pq.write_table(table, root / f"data/encode/{split}.documents.parquet")
    pq.write_table(table.slice(0, 0), root / "data/instruct/documents.parquet")
    plan = _pack(root, length[fate == 0], rng)
    for stage in (*STAGES, "attest"):
        if stage == "pretrain":
            plan = _train(root, plan)
        seal(root, stage)
    return plan


def _corpus(documents: int, rng: np.random.Generator) -> pa.Table:
    number = np.arange(documents)
    words = _WORDS[rng.integers(0, len(_WORDS), (documents, 4))]
    segment, offset = number // 5000, (number % 5000) * 20011 + rng.integers(0, 9000, documents)
    ids = [f"crawl/segment-{a:05d}.warc.gz#{b}" for a, b in zip(segment.tolist(), offset.tolist(), strict=True)]
    pairs = zip(words.tolist(), rng.integers(0, 10**6, documents).tolist(), strict=True)
    urls = [f"https://www.{w[0]}-{w[1]}.example/{w[2]}/{w[3]}-{n}.html" for w, n in pairs]
    titles = [f"{w[3].capitalize()} of the {w[1]} {w[0]}" for w in words.tolist()]
    lang = rng.choice(["en", "zh"], documents)
    licence = np.array(_LICENCES)[rng.integers(0, 3, documents)]
    columns = {"doc_id": ids, "url": urls, "title": titles, "lang": lang, "licence": licence}
    columns |= {"source": [f"crawl-{n % 12:02d}" for n in (number // 50_000).tolist()], "author": [None] * documents}
    fields = [SCHEMA.field(name) for name in columns]
    return pa.table([pa.array(columns[field.name], field.type) for field in fields], pa.schema(fields))


def _fates(root: Path, corpus: pa.Table, fate: np.ndarray) -> None:
    ids = corpus["doc_id"].to_numpy(zero_copy_only=False)
    dropped, copies = ids[fate == 2], ids[fate == 3]
    survivor = np.resize(ids[fate == 0], len(copies))
    drops = {
        "doc_id": dropped,
        "reason": ["too_short"] * len(dropped),
        "detail": [f"{n % 10} < 10" for n in range(len(dropped))],
    }
    pq.write_table(pa.table(drops), root / "data/clean/drops.parquet")
    clusters = {"doc_id": copies, "cluster": survivor, "survivor": [False] * len(copies), "kind": ["near"] * len(copies)}
    pq.write_table(pa.table(clusters | {"jaccard": [0.9] * len(copies)}), root / "data/dedup/clusters.parquet")
    empty = pa.schema([(name, pa.string()) for name in ("doc_id", "evaluation", "item", "ngram", "action")])
    pq.write_table(empty.empty_table(), root / "data/decontaminate/hits.parquet")


def _pack(root: Path, length: np.ndarray, rng: np.random.Generator) -> DataPlan:
    """Rows of equal size over a ring of all tokens, turned anew in each epoch."""
    ends = np.cumsum(length)
    total = int(ends[-1])
    samples = total // ROW
    tables = []
    for epoch in range(EPOCHS):
        turn = int(rng.integers(0, total))
        cuts = np.unique(np.concatenate([(turn + np.arange(samples + 1) * ROW) % total, ends % total]))  # on the ring
        size = np.diff(np.append(cuts, cuts[0] + total))
        from_turn = (cuts - turn) % total
        document = np.searchsorted(ends, cuts, side="right")
        keep = from_turn < samples * ROW
        order = np.argsort(from_turn[keep], kind="stable")
        columns = {
            "sample": (from_turn[keep] // ROW + epoch * samples)[order],
            "doc_index": document[keep][order],
            "doc_offset": (cuts - np.append(0, ends)[document])[keep][order].astype(np.int32),
            "length": size[keep][order].astype(np.int32),
        }
        tables.append(pa.table(columns))
    pq.write_table(pa.concat_tables(tables), root / "data/pack/pieces-00000.parquet")
    facts = {"samples_per_epoch": samples, "epochs": EPOCHS, "shard_samples": samples * EPOCHS}
    (root / "data/pack/pack.json").write_text(json.dumps(facts), encoding="utf-8")
    steps = int(1.4 * samples) // BATCH
    return DataPlan(Order(2**63 + 77, samples, EPOCHS), BatchRamp(BATCH // 2, BATCH, BATCH // 4, samples // 3), steps, "")


def _train(root: Path, plan: DataPlan) -> DataPlan:
    """Ten segments: one given up, one left behind, one with steps passed over."""
    plan = DataPlan(plan.order, plan.ramp, plan.steps, sha256_file(root / "data/pack/manifest.json"))
    (root / "data/pretrain/plan.json").write_text(plan.to_json(), encoding="utf-8")
    journal = Journal.open(root / "data/pretrain/journal.jsonl")
    at = [plan.steps * part // 8 for part in range(9)]
    name = [f"step-{step:06d}" for step in at]
    middle = (at[3] + at[4]) // 2
    lines = [(None if n == 0 else name[n], at[n], at[n + 1], name[n + 1], "kept", ()) for n in range(3)]
    lines += [
        (name[3], at[3], middle, None, "abandoned", ()),
        (name[3], at[3], at[4], name[4], "kept", ((at[3] + 1, at[3] + 3),)),
    ]
    lines += [(name[4], at[4], at[5], name[5], "kept", ()), (name[5], at[5], at[5] + 5, f"step-{at[5] + 5:06d}", "kept", ())]
    lines += [(name[n], at[n], at[n + 1], name[n + 1], "kept", ()) for n in (5, 6, 7)]
    for parent, first, end, checkpoint, status, skipped in lines:
        samples = plan.ramp.consumed([first, end]).tolist()
        weights = hashlib.sha256(checkpoint.encode()).hexdigest() if checkpoint else None
        span = (first, end - 1, samples[0], samples[1] - 1)
        journal.append(Segment(parent, *span, plan.digest, status, checkpoint, weights, skipped))  # type: ignore[arg-type]
    return plan
