"""Content of files compared: JSON, JSON lines, CSV, Parquet, Arrow IPC, safetensors and text; of anything else the bytes.

Each comparison gives the worst verdict of the file (see `ledger.rebuild.compare`) and the first place that earned it.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

IDENTICAL, CANONICAL, CLOSE, DIFFERENT, MISSING = VERDICTS = ("identical", "canonical", "close", "different", "missing")
_TEXT = (".md", ".txt", ".html", ".svg", ".yaml", ".css", ".js")
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_NUMBER = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?")
_DIGEST = re.compile(r"\b[0-9a-f]{8,64}\b")
_SHOWN = 60


@dataclass(frozen=True)
class Tolerance:
    """Numbers a and b are close where |a - b| <= absolute + relative * |b|; integers are compared as such, and not close."""

    relative: float = 1e-5
    absolute: float = 1e-8

    def close(self, a: float, b: float) -> bool:
        """Whether two numbers are."""
        return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=self.relative, abs_tol=self.absolute)


@dataclass(frozen=True)
class Difference:
    """A verdict, and the first place that earned it."""

    verdict: str
    place: str = ""

    @property
    def rank(self) -> int:
        """0 for the best."""
        return VERDICTS.index(self.verdict)


SAME = Difference(IDENTICAL)


class Known:
    """Pairs of digests of files that were compared, with the verdict on these."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str], str] = {}

    def add(self, left: str, right: str, verdict: str) -> None:
        """Remember a pair."""
        self._pairs[left, right] = verdict

    def verdict(self, left: str, right: str) -> str | None:
        """The verdict on two digests, or on beginnings of them of eight digits or more; None for others."""
        if (left, right) in self._pairs:
            return self._pairs[left, right]
        if len(left) != len(right) or not 8 <= len(left) < 64:
            return None
        return next((found for (a, b), found in self._pairs.items() if a.startswith(left) and b.startswith(right)), None)


def worst(verdicts: Iterable[str]) -> str:
    """The worst of them; `identical` of none."""
    return max(verdicts, key=VERDICTS.index, default=IDENTICAL)


def _first_worst(found: Iterable[Difference], least: str = IDENTICAL) -> Difference:
    """The first of the worst differences, and `least` where there is none so bad."""
    result = Difference(least, "" if least == IDENTICAL else "content equal, bytes not")
    for difference in found:
        if difference.rank > result.rank:
            result = difference
        if result.verdict == DIFFERENT:
            break
    return result


def compare(left: Path, right: Path, tolerance: Tolerance, known: Known) -> Difference:
    """Two files of other bytes, in the format that their name says; of a damaged one the bytes."""
    function = _BY_SUFFIX.get(left.suffix, _compare_bytes)
    try:
        return _first_worst(function(left, right, tolerance, known), CANONICAL)
    except (ValueError, KeyError, TypeError, struct.error, pa.ArrowException) as error:
        return _first_worst([Difference(DIFFERENT, f"cannot be read as {left.suffix}: {error}")])


def compare_values(left: Any, right: Any, path: str, tolerance: Tolerance, known: Known) -> Difference:
    """Two values as JSON has them; `path` is how places inside them begin."""
    return _first_worst(_walk(left, right, path, tolerance, known))


# --- values ----------------------------------------------------------------------------------------------------------------


def _walk(left: Any, right: Any, path: str, tolerance: Tolerance, known: Known) -> Iterator[Difference]:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(left.keys() | right.keys(), key=str):
            inner = f"{path}.{key}" if path else str(key)
            if key not in left or key not in right:
                yield Difference(DIFFERENT, f"{inner}: only in the {'second' if key not in left else 'first'} build")
            else:
                yield from _walk(left[key], right[key], inner, tolerance, known)
    elif isinstance(left, list) and isinstance(right, list):
        for number, (a, b) in enumerate(zip(left, right, strict=False)):
            yield from _walk(a, b, f"{path}[{number}]", tolerance, known)
        if len(left) != len(right):
            yield Difference(DIFFERENT, f"{path}: {len(left)} and {len(right)} entries")
    elif left != right or type(left) is not type(right):
        yield _leaves(left, right, path, tolerance, known)


def _leaves(left: Any, right: Any, path: str, tolerance: Tolerance, known: Known) -> Difference:
    place = f"{path}: {_short(left)} and {_short(right)}"
    numbers = [isinstance(value, (int, float)) and not isinstance(value, bool) for value in (left, right)]
    if all(numbers) and float in (type(left), type(right)):
        same = left == right or (math.isnan(left) and math.isnan(right))
        return SAME if same else Difference(CLOSE if tolerance.close(left, right) else DIFFERENT, place)
    if isinstance(left, str) and isinstance(right, str):
        return Difference(_strings(left, right, tolerance, known), place)
    return Difference(DIFFERENT, place)


def _strings(left: str, right: str, tolerance: Tolerance, known: Known) -> str:
    """Verdict on two texts: digests of compared files count as these do, numbers as numbers, the rest letter by letter."""
    verdicts = []
    for pattern in (_DIGEST, _NUMBER):
        parts, others = pattern.split(left), pattern.split(right)
        if pattern is _DIGEST and len(parts) == len(others):
            pairs = list(zip(pattern.findall(left), pattern.findall(right), strict=True))
            found = {pair: known.verdict(*pair) for pair in pairs if pair[0] != pair[1]}
            verdicts += [verdict for verdict in found.values() if verdict]
            for (a, b), verdict in found.items():
                left, right = (left.replace(a, ""), right.replace(b, "")) if verdict else (left, right)
        elif pattern is _NUMBER and left != right:
            numbers = list(zip(pattern.findall(left), pattern.findall(right), strict=False))
            whole = parts == others and all(a == b or "." in a + b or "e" in a + b for a, b in numbers)
            near = whole and all(tolerance.close(float(a), float(b)) for a, b in numbers)
            verdicts.append(CLOSE if near else DIFFERENT)
    return worst(verdicts)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


# --- formats ---------------------------------------------------------------------------------------------------------------


def _compare_json(left: Path, right: Path, tolerance: Tolerance, known: Known) -> Iterator[Difference]:
    a, b = (json.loads(path.read_text(encoding="utf-8")) for path in (left, right))
    yield from _walk(a, b, "", tolerance, known)


def _compare_lines(left: Path, right: Path, tolerance: Tolerance, known: Known) -> Iterator[Difference]:
    """JSON lines. In a chain of hashes (a journal) each line's own hash is known to follow from the rest of the line."""
    pairs = zip(*(path.read_text(encoding="utf-8").splitlines() for path in (left, right)), strict=False)
    state = CANONICAL
    for number, lines in enumerate(pairs, 1):
        a, b = (json.loads(line) for line in lines)
        digests = ["", ""]
        if all(isinstance(row, dict) and {"previous", "hash"} <= row.keys() for row in (a, b)):
            digests = [row.pop("hash") for row in (a, b)]
        difference = _first_worst(_walk(a, b, f"line {number}", tolerance, known))
        state = worst([state, difference.verdict])
        known.add(digests[0], digests[1], state)
        yield difference
    yield from _same_count(left, right, lambda path: len(path.read_text(encoding="utf-8").splitlines()), "lines")


def _compare_csv(left: Path, right: Path, tolerance: Tolerance, known: Known) -> Iterator[Difference]:
    tables = [list(csv.reader(io.StringIO(path.read_text(encoding="utf-8")))) for path in (left, right)]
    heading = tables[0][0] if tables[0] else []
    for number, (a, b) in enumerate(zip(*tables, strict=False), 1):
        for column, (x, y) in enumerate(itertools.zip_longest(a, b)):
            if x != y:
                name = heading[column] if column < len(heading) else column + 1
                verdict = DIFFERENT if x is None or y is None else _strings(x, y, tolerance, known)
                yield Difference(verdict, f"row {number}, column {name}: {_short(x)} and {_short(y)}")
    if len(tables[0]) != len(tables[1]):
        yield Difference(DIFFERENT, f"{len(tables[0])} and {len(tables[1])} rows")


def _compare_text(left: Path, right: Path, tolerance: Tolerance, known: Known) -> Iterator[Difference]:
    lines = [path.read_text(encoding="utf-8").rstrip().splitlines() for path in (left, right)]
    for number, (a, b) in enumerate(zip(*lines, strict=False), 1):
        if a.rstrip() != b.rstrip():
            column = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            around = slice(max(0, column - 10), column + 30)
            yield Difference(_strings(a, b, tolerance, known), f"line {number}: {_short(a[around])} and {_short(b[around])}")
    if len(lines[0]) != len(lines[1]):
        yield Difference(DIFFERENT, f"{len(lines[0])} and {len(lines[1])} lines")


def _compare_bytes(left: Path, right: Path, tolerance: Tolerance, known: Known) -> Iterator[Difference]:
    chunk = 1 << 20
    with left.open("rb") as first, right.open("rb") as second:
        for start in itertools.count(0, chunk):
            a, b = (np.frombuffer(file.read(chunk), np.uint8) for file in (first, second))
            size = min(len(a), len(b))
            unequal = np.flatnonzero(a[:size] != b[:size])
            if len(unequal) or len(a) != len(b):
                place = int(unequal[0]) if len(unequal) else size
                yield Difference(DIFFERENT, f"byte {start + place}")
                return
            if not size:
                return


def _same_count(left: Path, right: Path, count: Callable[[Path], int], what: str) -> Iterator[Difference]:
    a, b = count(left), count(right)
    if a != b:
        yield Difference(DIFFERENT, f"{a} and {b} {what}")


def _compare_tables(left: Path, right: Path, tolerance: Tolerance, known: Known) -> Iterator[Difference]:
    tables = [_table(path) for path in (left, right)]
    if tables[0].schema.names != tables[1].schema.names:
        yield Difference(DIFFERENT, f"columns {_short(tables[0].schema.names)} and {_short(tables[1].schema.names)}")
        return
    if tables[0].num_rows != tables[1].num_rows:
        yield Difference(DIFFERENT, f"{tables[0].num_rows} and {tables[1].num_rows} rows")
        return
    for name in tables[0].schema.names:
        a, b = (table[name].combine_chunks() for table in tables)
        if a.type != b.type:
            yield Difference(DIFFERENT, f"column {name}: {a.type} and {b.type}")
        elif not a.equals(b):
            yield from _compare_column(name, a, b, tolerance, known)


def _compare_column(name: str, left: Any, right: Any, tolerance: Tolerance, known: Known) -> Iterator[Difference]:
    """The rows of a column that differ; NaN equals NaN."""
    try:
        same = pc.fill_null(pc.equal(left, right), False)
        rows = pc.indices_nonzero(pc.invert(pc.or_(same, pc.and_(pc.is_null(left), pc.is_null(right))))).to_pylist()
    except pa.ArrowNotImplementedError:  # lists: row by row
        rows = range(len(left))
    for row in rows:
        a, b = left[row].as_py(), right[row].as_py()
        if a != b:
            yield _first_worst(_walk(a, b, f"row {row}, column {name}", tolerance, known))


def _table(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path, partitioning=None)
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _compare_tensors(left: Path, right: Path, tolerance: Tolerance, known: Known) -> Iterator[Difference]:
    (heads, starts) = zip(*(_tensor_heads(path) for path in (left, right)), strict=True)
    yield from _walk(heads[0].pop("__metadata__", {}), heads[1].pop("__metadata__", {}), "metadata", tolerance, known)
    for name in sorted(heads[0].keys() | heads[1].keys()):
        if name not in heads[0] or name not in heads[1]:
            yield Difference(DIFFERENT, f"tensor {name}: only in the {'second' if name not in heads[0] else 'first'} build")
            continue
        facts = [head[name] for head in heads]
        kinds = [(fact["dtype"], fact["shape"]) for fact in facts]
        if kinds[0] != kinds[1]:
            yield Difference(DIFFERENT, f"tensor {name}: {kinds[0]} and {kinds[1]}")
            continue
        a, b = (_tensor(path, start, fact) for path, start, fact in zip((left, right), starts, facts, strict=True))
        yield _compare_arrays(name, facts[0]["shape"], a, b, tolerance)


def _compare_arrays(name: str, shape: list[int], a: Any, b: Any, tolerance: Tolerance) -> Difference:
    unequal = np.flatnonzero((a != b) & ~(np.isnan(a) & np.isnan(b)))
    if not len(unequal):
        return SAME
    x, y = a[unequal].astype(np.float64), b[unequal].astype(np.float64)
    apart = np.abs(x - y) - tolerance.absolute - tolerance.relative * np.abs(y)
    near = bool(a.dtype.kind == "f" and np.all(apart <= 0))
    at = unequal[0] if near else unequal[np.argmax(apart > 0)]
    place = tuple(int(index) for index in np.unravel_index(at, shape or [1]))
    text = f"tensor {name}, element {place}: {a[at]:.9g} and {b[at]:.9g}; {len(unequal)} of {len(a)} differ"
    return Difference(CLOSE if near else DIFFERENT, text)


def _tensor_heads(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(size)), 8 + size


def _tensor(path: Path, start: int, fact: dict[str, Any]) -> npt.NDArray[Any]:
    """A tensor's values in a row; bfloat16 widened to float32."""
    begin, end = fact["data_offsets"]
    data = np.memmap(path, np.uint8, "r", start + begin, (end - begin,)) if end > begin else np.empty(0, np.uint8)
    if fact["dtype"] == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, _DTYPES[fact["dtype"]])


_BY_SUFFIX: dict[str, Callable[[Path, Path, Tolerance, Known], Iterator[Difference]]] = {
    ".json": _compare_json,
    ".jsonl": _compare_lines,
    ".ndjson": _compare_lines,
    ".csv": _compare_csv,
    ".parquet": _compare_tables,
    ".arrow": _compare_tables,
    ".safetensors": _compare_tensors,
    **dict.fromkeys(_TEXT, _compare_text),
}
