"""The same jobs done with the tools that others use: datasketch, rensa, datatrove, each as its own documents show.

datasketch and rensa are fed with shingles that Python makes, in two ways: `defined` makes exactly the project's own (case and
punctuation do not count), `plain` the leanest that anybody would write: words between blanks, or characters. The jobs from
Parquet to pairs take `plain`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from stages import _ngrams

PERMUTATIONS, N = 128, 5
Pairs = set[tuple[int, int]]
Shingler = Callable[[str], list[str]]


def installed(*names: str) -> bool:
    """Whether all these modules can be imported."""
    return all(find_spec(name) is not None for name in names)


def complaint(job: Callable[[], Any]) -> str:
    """Try a peer: nothing where it works, else what its row says. A peer that cannot run here must not end the benchmark."""
    try:
        job()
    except Exception as error:
        return f"does not run here: {type(error).__name__}: {error}"
    return ""


def defined(text: str) -> list[str]:
    """The project's own shingles."""
    sequence = _ngrams.units(text)
    return list(_ngrams.ngrams(sequence, N)) or [" ".join(sequence) or text]


def plain(lang: str) -> Shingler:
    """5-grams of words between blanks (English) or of characters (Chinese), nothing normalised."""

    def words(text: str) -> list[str]:
        return list(_ngrams.ngrams(text.split(), N)) or [text]

    def characters(text: str) -> list[str]:
        return [text[at : at + N] for at in range(len(text) - N + 1)] or [text]

    return words if lang == "en" else characters


def texts_of(files: Iterable[Path]) -> list[str]:
    """All texts of Parquet shards, in order."""
    return list(chain.from_iterable(pq.read_table(file, columns=["text"])["text"].to_pylist() for file in files))


# --- signatures ------------------------------------------------------------------------------------------------------------


def update_loop(texts: Iterable[str], shingle: Shingler) -> list[Any]:
    """datasketch as its first page shows it: `update` for every shingle."""
    from datasketch import MinHash

    made = []
    for text in texts:
        signature = MinHash(num_perm=PERMUTATIONS)
        for item in set(shingle(text)):
            signature.update(item.encode())
        made.append(signature)
    return made


def update_batch(texts: Iterable[str], shingle: Shingler, hashfunc: Callable[[bytes], int] | None = None) -> list[Any]:
    """datasketch's `update_batch`, with its SHA-1 or another hash function."""
    from datasketch import MinHash

    made = []
    for text in texts:
        signature = MinHash(num_perm=PERMUTATIONS, hashfunc=hashfunc)
        signature.update_batch([item.encode() for item in set(shingle(text))])
        made.append(signature)
    return made


def bulk(texts: Iterable[str], shingle: Shingler) -> list[Any]:
    """datasketch's `MinHash.bulk`, which makes the permutations once."""
    from datasketch import MinHash

    return MinHash.bulk(([item.encode() for item in set(shingle(text))] for text in texts), num_perm=PERMUTATIONS)


def rensa_signatures(texts: Iterable[str], shingle: Shingler) -> list[Any]:
    """rensa's RMinHash, fed with strings."""
    from rensa import RMinHash

    made = []
    for text in texts:
        signature = RMinHash(num_perm=PERMUTATIONS, seed=1)
        signature.update(shingle(text))
        made.append(signature)
    return made


def strings_only(texts: Iterable[str], shingle: Shingler) -> int:
    """Nothing but the shingles as Python strings: no tool that is fed with them can be faster."""
    return sum(len(shingle(text)) for text in texts)


# --- Parquet to pairs ------------------------------------------------------------------------------------------------------


def datasketch_job(files: list[Path], lang: str, threshold: float) -> Pairs:
    """`update_batch` and `MinHashLSH(threshold, num_perm)` as documented: pairs that its index calls similar, unchecked."""
    from datasketch import MinHashLSH

    index, pairs = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS), set()
    for number, signature in enumerate(update_batch(texts_of(files), plain(lang))):
        pairs.update((other, number) for other in index.query(signature))
        index.insert(number, signature)
    return pairs


def rensa_job(files: list[Path], lang: str, threshold: float) -> Pairs:
    """rensa with 16 bands of 8 rows, candidates checked by their signatures a little below the threshold."""
    from rensa import RMinHashLSH

    index, kept, pairs = RMinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, num_bands=16), [], set()
    for number, signature in enumerate(rensa_signatures(texts_of(files), plain(lang))):
        found = index.query(signature)
        pairs.update((other, number) for other in found if kept[other].jaccard(signature) >= threshold - 0.05)
        index.insert(number, signature)
        kept.append(signature)
    return pairs


def datatrove_job(files: list[Path], lang: str, folder: Path) -> Pairs:
    """datatrove's three MinHash stages (its own words, 14 buckets of 8), then its clusters as chains of pairs."""
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig

    _quiet()
    config, here = MinhashConfig(), str(folder)
    MinhashDedupSignature(f"{here}/signatures", config, language=_datatrove_language(lang)).run(datatrove_documents(files))
    for bucket in range(config.num_buckets):
        step = MinhashDedupBuckets(f"{here}/signatures", f"{here}/buckets", config=config)
        step.run(None, bucket, config.num_buckets)
    MinhashDedupCluster(f"{here}/buckets", f"{here}/clusters", config, save_cluster_id=True).run(None, 0, 1)
    clusters: dict[int, list[int]] = {}
    words = memoryview((folder / "clusters/000000.clusters").read_bytes()).cast("I").tolist()
    for document, cluster in zip(words[::2], words[1::2], strict=True):
        clusters.setdefault(cluster, []).append(document)
    return {pair for members in clusters.values() for pair in pairwise(sorted(members))}


# --- datatrove's documents and filters -------------------------------------------------------------------------------------


def datatrove_documents(files: Iterable[Path]) -> Any:
    """The rows of Parquet shards as datatrove's documents."""
    return datatrove_texts(texts_of(files))


def datatrove_texts(texts: Iterable[str]) -> Any:
    """Texts as datatrove's documents."""
    from datatrove.data import Document

    return (Document(text=text, id=str(number)) for number, text in enumerate(texts))


def datatrove_filters(lang: str) -> dict[str, Any]:
    """datatrove's Gopher, C4 and FineWeb rules with their defaults for a language."""
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

    _quiet()
    code = _datatrove_language(lang)
    return {
        "Gopher quality": GopherQualityFilter(language=code),
        "Gopher repetition": GopherRepetitionFilter(language=code),
        "C4": C4QualityFilter(language=code),
        "FineWeb": FineWebQualityFilter(language=code),
    }


def datatrove_words(lang: str) -> bool:
    """Whether the word tokeniser that datatrove takes for a language is there: spaCy, with jieba for Chinese."""
    return installed("datatrove", "spacy", "tokenizers", *(["jieba"] if lang == "zh" else []))


def _datatrove_language(lang: str) -> str:
    from datatrove.utils.typeshelper import Languages

    return {"en": Languages.english, "zh": Languages.mandarin_chinese}[lang]


def _quiet() -> None:
    from loguru import logger

    logger.remove()
    logging.getLogger("jieba").setLevel(logging.ERROR)
