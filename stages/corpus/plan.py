"""What is to be read: files of an origin as units, and units as tasks of about equal size for the workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stages import _storage
from stages._errors import StageError
from stages._manifest import sha256_file
from stages._runner import StageIO
from stages.corpus.archive import is_archive
from stages.corpus.download import Downloads, Wanted, fetch, names, of_stage
from stages.corpus.mediawiki import stream_offsets
from stages.corpus.params import Origin, Params, Source
from stages.corpus.remote import common_folder, expand, parse_sums, public
from stages.corpus.shelf import Selector
from stages.corpus.streams import Limits, decompressed

_TEXT_FROM_DUMP = 4  # bytes of text, roughly, from a byte of a compressed dump
_NO_FILE = "correct folder and members in corpus.origins"


@dataclass(frozen=True)
class Unit:
    """A file, or a part of one, that one worker reads.

    Attributes:
        name: of the file inside its origin; tells the format.
        address: an absolute path, or a URL from which the worker brings the file.
        sha256: of the file, where it is known; else the worker finds it.
        weight: bytes, for sharing the work; 0 where it is not known.
        part: range of the file, see `records.Reading`.
        downloaded: whether `address` is to be brought by the worker.
        prefix: before the names of members, where it is one of several archives.
        shares_ids: whether a part may name a document as another part of the file does; rows of a table have numbers.
    """

    name: str
    address: str
    sha256: str | None = None
    weight: int = 0
    part: tuple[int, int] | None = None
    downloaded: bool = False
    prefix: str = ""
    shares_ids: bool = False


@dataclass(frozen=True)
class Task:
    """What one worker reads in one go; `params` holds the one origin concerned."""

    number: int
    params: Params
    units: tuple[Unit, ...]
    work: str
    scratch: str

    @property
    def origin(self) -> Origin:
        """The origin that all units belong to."""
        return self.params.origins[0]

    def shard(self, source: Source, number: int) -> str:
        """Address of a shard that the task writes of a source's documents, counted from 0."""
        return _storage.join(self.work, f"{source.id}-{self.number:06d}-{number:04d}.parquet")

    @property
    def quarantine(self) -> str:
        """Address of what the task could not use."""
        return _storage.join(self.work, f"quarantine-{self.number:06d}.parquet")


def plan(params: Params, io: StageIO) -> tuple[list[Task], dict[str, set[str]]]:
    """The tasks, in the order of origins and files, and by source the patterns that have already found a file.

    What has one file is fetched here; files of a store are fetched by the workers.

    Raises:
        StageError: a file cannot be had.
    """
    tasks: list[Task] = []
    matched: dict[str, set[str]] = {}
    for origin in params.origins:
        selectors = [Selector(source) for source in origin.sources]
        units = [part for unit in _units(origin, selectors, io) for part in _parts(unit, origin, selectors, params.shard_bytes)]
        single = any(source.max_bytes is not None for source in origin.sources)
        for group in _groups(units, None if single else params.shard_bytes):
            tasks.append(
                Task(
                    number=len(tasks),
                    params=replace(params, origins=(origin,)),
                    units=tuple(_reachable(unit, io) for unit in group),
                    work=io.work("read"),
                    scratch=str(io.scratch("downloads").parent),
                )
            )
        matched |= {selector.source.id: selector.matched for selector in selectors}
    return tasks, matched


def _units(origin: Origin, selectors: list[Selector], io: StageIO) -> Iterator[Unit]:
    """The files of an origin that a source wants; an archive is one, whatever it holds."""
    if origin.kind == "store":
        yield from _store_units(origin, selectors, of_stage(io))
        return
    if origin.kind == "local":
        path = io.root / str(origin.path)
        if not path.exists():
            raise StageError(
                f"sources {names(origin)}: no such file or folder",
                file=origin.path,
                remedy="correct corpus.origins in params.yaml",
            )
        if path.is_dir():
            for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
                name = file.relative_to(path).as_posix()
                if _wanted(name, selectors):
                    yield Unit(name, str(file), None, file.stat().st_size)
                elif _opened(name, selectors):
                    yield Unit(name, str(file), None, file.stat().st_size, prefix=f"{name}/")
            return
        name, sha256 = path.name, None
    else:
        path, sha256 = fetch(origin, io)
        name = str(origin.file)
    if is_archive(name) or _wanted(name, selectors):
        yield Unit(name, str(path), sha256, path.stat().st_size)


def _store_units(origin: Origin, selectors: list[Selector], downloads: Downloads) -> Iterator[Unit]:
    patterns = origin.files or (f"{str(origin.base).rstrip('/')}/*",)
    try:
        sums = _sums(origin, downloads) if origin.checksums else None
        known = _listed(origin, downloads) if origin.listing else sums
        urls = expand(patterns, known)
    except (LookupError, ValueError) as error:
        raise StageError(
            f"sources {names(origin)}: {error}",
            file=public(origin.listing or origin.checksums or patterns[0]),
            remedy="correct corpus.origins",
        ) from error
    base = common_folder(patterns)
    for url in urls:
        name = url.removeprefix(base).lstrip("/")
        opened = (not origin.several and is_archive(name)) or _opened(name, selectors)
        if not opened and not _wanted(name, selectors):
            continue
        if sums is not None and url not in sums:
            raise StageError(
                f"sources {names(origin)}: no checksum is given for {name}", file=origin.checksums, remedy="add its line"
            )
        sha256 = sums[url] if sums is not None else origin.sha256
        yield Unit(name, url, sha256, downloaded=True, prefix=f"{name}/" if opened and origin.several else "")


def _sums(origin: Origin, downloads: Downloads) -> dict[str, str]:
    url = str(origin.checksums)
    return parse_sums(downloads.bring(_by_url(url, origin, origin.sha256))[0].read_text(encoding="utf-8"), url)


def _listed(origin: Origin, downloads: Downloads) -> list[str]:
    """The addresses that the origin's listing names."""
    url, base = str(origin.listing), str(origin.base).rstrip("/")
    path, _ = downloads.bring(_by_url(url, origin, None))
    with path.open("rb") as raw:
        lines = decompressed(url, raw, Limits()).read().decode().splitlines()
    return [line if "://" in line else f"{base}/{line.lstrip('/')}" for line in map(str.strip, lines) if line]


def _by_url(url: str, origin: Origin, sha256: str | None) -> Wanted:
    return Wanted(public(url), names(origin), url.rpartition("/")[2], sha256, lambda transport: url, identity=url)


def _wanted(name: str, selectors: list[Selector]) -> bool:
    return bool([selector for selector in selectors if selector.wants(name)])  # each keeps its own tally


def _opened(name: str, selectors: list[Selector]) -> bool:
    return any(selector.opens(name) for selector in selectors)


def _parts(unit: Unit, origin: Origin, selectors: list[Selector], size: int) -> list[Unit]:
    """The unit, or its parts where the format lets several workers read one large file."""
    sources = [selector.source for selector in selectors if not is_archive(unit.name) and selector.wants(unit.name)]
    if unit.downloaded or unit.weight <= size or len(sources) != 1 or sources[0].max_bytes is not None:
        return [unit]
    reader, path = sources[0].reader, Path(unit.address)
    if reader == "parquet" and sources[0].columns.id is None:
        ranges = _row_groups(path, size)
    elif reader == "mediawiki" and (index := _index(path, unit.name)):
        ranges = _dump_parts(path, index, size // _TEXT_FROM_DUMP)
    else:
        return [unit]
    sha256 = unit.sha256 or sha256_file(path)
    weight = unit.weight // max(1, len(ranges))
    return [replace(unit, sha256=sha256, weight=weight, part=part, shares_ids=reader == "mediawiki") for part in ranges]


def _row_groups(path: Path, size: int) -> list[tuple[int, int]]:
    """Half-open ranges of row groups of about `size` bytes."""
    import pyarrow.parquet as pq

    meta = pq.read_metadata(path)
    weights = [meta.row_group(group).total_byte_size for group in range(meta.num_row_groups)]
    starts = _starts(weights, size)
    return list(zip(starts, [*starts[1:], len(weights)], strict=True))


def _dump_parts(path: Path, index: Path, size: int) -> list[tuple[int, int]]:
    """Byte ranges of about `size` compressed bytes, each of whole streams."""
    with index.open("rb") as raw:
        offsets = stream_offsets(decompressed(index.name, raw, Limits()))
    end = path.stat().st_size
    if not offsets or offsets[-1] >= end:
        raise StageError(
            "the index names bytes that the dump does not have", file=index.name, remedy="fetch dump and index anew"
        )
    weights = [after - before for before, after in zip(offsets, [*offsets[1:], end], strict=True)]
    starts = [offsets[first] for first in _starts(weights, size)]
    return list(zip(starts, [*starts[1:], end], strict=True))


def _index(path: Path, name: str) -> Path | None:
    """The index that Wikimedia publishes beside a multistream dump, where it lies here."""
    if not name.endswith("multistream.xml.bz2"):
        return None
    stem = path.name.removesuffix(".xml.bz2")
    return next((file for end in (".txt.bz2", ".txt") if (file := path.with_name(f"{stem}-index{end}")).is_file()), None)


def _starts(weights: list[int], size: int) -> list[int]:
    """Where runs begin that weigh at most `size` each (a heavier item is a run by itself)."""
    starts, run = [0], 0
    for place, weight in enumerate(weights):
        if run and run + weight > size:
            starts.append(place)
            run = 0
        run += weight
    return starts


def _groups(units: list[Unit], size: int | None) -> Iterable[list[Unit]]:
    """Units that are read together: neighbours of at most `size` bytes, or all of them."""
    if size is None or not units:
        return [units] if units else []
    starts = _starts([unit.weight or size for unit in units], size)
    return [units[first:end] for first, end in zip(starts, [*starts[1:], len(units)], strict=True)]


def _reachable(unit: Unit, io: StageIO) -> Unit:
    """The unit as workers on other machines reach it, where shards travel through an exchange."""
    if io.settings.exchange is None or unit.downloaded:
        return unit
    sha256 = unit.sha256 or sha256_file(Path(unit.address))
    address = io.work(f"files/{sha256}")
    if not _storage.exists(address):
        _storage.copy(unit.address, address)
    changes: dict[str, Any] = {"address": address, "sha256": sha256, "downloaded": True}
    return replace(unit, **changes)
