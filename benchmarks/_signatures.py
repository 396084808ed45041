"""MinHash signatures: 128 permutations of 5-grams, words of English and characters of Chinese, on one core.

Peers get shingles in two ways (see `_peers`): the leanest that Python can make, and exactly ours (", our shingles").
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import _ours, _peers, _planted
from benchmarks._bench import Bench
from benchmarks._measure import Row, Speed, Work, faster, interleaved

SECTION = "Signatures (MB of text for each CPU second)"
TARGETS = {"datasketch update_batch": 40.0, "datasketch update loop": 200.0, "rensa RMinHash": 6.0}
AWKWARD = ("", " ", "a", "。", "One two", "五", "İstanbul ẞ ﬁn", "don't don’t", "𠀀𠀁𠀂𠀃", "a\u0301 b c d e", "中文 and 混 x")
_SAME = ", our shingles"
_SLOW_BYTES, _COMPARED = 1_000_000, 1000


def rows(bench: Bench) -> list[Row]:
    """Ours beside each peer, and whether the signatures are datasketch's own."""
    table = []
    for lang in _planted.LANGUAGES:
        speeds = _speeds(bench, lang)
        ours = speeds.pop("ours")
        assert ours is not None
        for name, speed in speeds.items():
            table.append(faster(SECTION, lang, ours, name, speed, TARGETS.get(name.removesuffix(_SAME))))
        table.append(_identity(bench, lang))
    return table


def _speeds(bench: Bench, lang: str) -> dict[str, Speed | None]:
    texts, size = bench.sample(lang, _SLOW_BYTES)
    everything = pa.array(bench.planted[lang].texts, pa.large_string())
    peers: dict[str, tuple[str, Callable[..., Any]]] = {
        "datasketch update_batch": ("datasketch", _peers.update_batch),
        "datasketch update loop": ("datasketch", _peers.update_loop),
        "datasketch bulk": ("datasketch", _peers.bulk),
        "rensa RMinHash": ("rensa", _peers.rensa_signatures),
        "no hash: shingles as strings": ("datasketch", _peers.strings_only),
    }
    works = {"ours": Work(lambda: _ours.signatures(everything, lang), bench.planted[lang].bytes, len(everything))}
    found: dict[str, Speed | None] = {}
    for kind, shingle in (("", _peers.plain(lang)), (_SAME, _peers.defined)):
        for name, (module, function) in peers.items():
            found[name + kind] = None
            if _peers.installed(module):
                works[name + kind] = Work(partial(function, texts, shingle), size, len(texts))
    _ours.signatures(everything[:50], lang)  # compiles
    return found | interleaved(works, bench.rounds)


def _identity(bench: Bench, lang: str) -> Row:
    """Bit by bit against `datasketch.MinHash` with the same hash function, on random documents and on awkward ones."""
    from datasketch import MinHash

    corpus = bench.planted[lang].texts
    texts = random.Random(130).sample(corpus, min(_COMPARED, len(corpus)))
    texts += [*AWKWARD, "x" * 5000]
    made = _ours.signatures(pa.array(texts, pa.large_string()), lang)
    equal = 0
    for text, found in zip(texts, made, strict=True):
        reference = MinHash(num_perm=_peers.PERMUTATIONS, seed=1, scheme="affine32", hashfunc=_ours.hash_shingle)
        reference.update_batch([item.encode() for item in _peers.defined(text)])
        equal += bool(np.array_equal(reference.hashvalues, found))
    what = f"{lang}: signatures equal to datasketch's"
    return Row(SECTION, what, f"of {len(texts)}", equal, target=len(texts), note="affine32, bit by bit, awkward texts too")
