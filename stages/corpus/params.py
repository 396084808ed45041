"""The corpus section of `params.yaml`: origins (where bytes come from) and the sources that are read from each."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated

from stages._params import Fraction, OneOf, Positive, Range

Kind = Annotated[str, OneOf("pypi", "npm", "http", "store", "local")]
ReaderName = Annotated[
    str,
    OneOf("text", "play", "poems", "mediawiki", "jsonl", "parquet", "arrow", "html", "warc", "wet"),
]
Language = Annotated[str, OneOf("en", "zh", "und")]

_REQUIRED = {
    "pypi": ("package", "version", "file", "sha256"),
    "npm": ("package", "version", "file", "sha256"),
    "http": ("url", "file"),
    "store": (),
    "local": ("path",),
}
_OPTIONAL = {
    "http": ("sha256", "unpinned"),
    "store": ("files", "listing", "base", "sha256", "unpinned", "checksums"),
    "local": ("sha256",),
}
_FIELDS = ("package", "version", "file", "url", "path", "files", "listing", "base", "sha256", "checksums", "unpinned")
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Columns:
    """Which field of a row holds what; a dot goes into a nested field (`meta.url`), null reads none.

    Attributes:
        text: the document.
        id: its name in `doc_id`; null takes the row number, counted from 1.
        title, author, date, url: kept where a row has them.
        lang, licence: a row's own claims, which go before the source's.
        part: the collection inside a file that a row belongs to; the Pile's name for it by default.
    """

    text: str = "text"
    id: str | None = None
    title: str | None = "title"
    author: str | None = "author"
    date: str | None = "date"
    url: str | None = "url"
    lang: str | None = None
    licence: str | None = None
    part: str | None = "meta.pile_set_name"


@dataclass(frozen=True)
class Source:
    """One source id: which files of its origin it takes, how they are read, and what may be done with them.

    Attributes:
        id: name in `doc_id`, in file names and in every later report.
        reader: how one file becomes documents.
        members: shell patterns of the files, relative to `folder` (`*` also crosses `/`); `!pattern` leaves files out.
            A pattern that matches nothing stops the build.
        lang: the language that the source claims; `und` where it claims none, or records claim their own.
        licence: SPDX expression or LicenseRef; must stand in `accepted_licences`.
        rights: why this licence holds; copied to the register.
        folder: folder inside the origin that document paths are relative to.
        author: author of the documents whose file names none.
        max_bytes: documents are taken in the source's own order while their UTF-8 text stays within this; null takes all.
            One worker reads all files of an origin that holds such a source.
        columns: of `jsonl`, `parquet` and `arrow`.
        main_content: of `html` and `warc`: without navigation, adverts and page footers.
        expected_documents, expected_bytes: what the source should come to; another number stops the build (`tolerance`).
    """

    id: str
    reader: ReaderName
    members: tuple[str, ...]
    lang: Language
    licence: str
    rights: str
    folder: str = ""
    author: str | None = None
    max_bytes: Positive | None = None
    columns: Columns = field(default_factory=Columns)
    main_content: bool = True
    expected_documents: Positive | None = None
    expected_bytes: Positive | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", self.id):
            raise ValueError(f"source id {self.id!r}: use lower-case letters, digits and hyphens")
        if not self.members:
            raise ValueError(f"source {self.id}: members is empty; name at least one pattern")


@dataclass(frozen=True)
class Origin:
    """One archive, file, folder or set of remote files, and the sources read from it in one pass.

    Attributes:
        kind: `pypi` and `npm` ask a package index, `http` takes a URL, `store` any number of files by URL, `local` a file
            or folder on this machine.
        package, version, file: what the index is asked for; `file` also tells the archive's format.
        sha256: of the file's bytes; of the file `checksums` where that is given. Optional for `local`, where it covers the
            names and contents of the files read.
        unpinned: true accepts files whose checksum nobody knows in advance. The one found goes to the register, and a later
            run on this machine that is given other bytes stops.
        url: for `http`.
        files: for `store`: URLs of any scheme that fsspec knows (https, s3, gs, file, ...). Shell patterns need a store
            that can list, or `checksums` or `listing`, whose names are then matched.
        listing, base: URL of a text file that names the files, one a line, relative to the URL `base` (Common Crawl's
            `warc.paths.gz`); without `files` all of them are meant.
        checksums: URL of a `SHA256SUMS` file; its names are relative to its own folder.
        keep: whether downloads stay in runs/corpus/scratch, or go once their documents are written.
        path: for `local`; relative to the project, where it must also be declared in dvc.yaml.
    """

    kind: Kind
    sources: tuple[Source, ...]
    package: str | None = None
    version: str | None = None
    file: str | None = None
    url: str | None = None
    path: str | None = None
    files: tuple[str, ...] = ()
    sha256: str | None = None
    listing: str | None = None
    base: str | None = None
    checksums: str | None = None
    unpinned: bool = False
    keep: bool = True

    def __post_init__(self) -> None:
        required = _REQUIRED[self.kind]
        allowed = required + _OPTIONAL.get(self.kind, ())
        for name in _FIELDS:
            given = bool(getattr(self, name))
            if name in required and not given:
                raise ValueError(f"kind {self.kind} needs {name}")
            if given and name not in allowed:
                raise ValueError(f"kind {self.kind} does not take {name}; it takes {', '.join(allowed)}")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 {self.sha256!r}: expected 64 lower-case hexadecimal digits")
        if not self.sources:
            raise ValueError(f"origin {self.name}: no sources")
        if self.kind == "store" and not (self.files or self.listing):
            raise ValueError("kind store needs files or listing")
        if bool(self.listing) != bool(self.base):
            raise ValueError("listing and base go together")
        if self.kind in ("http", "store"):
            self._check_pins()

    def _check_pins(self) -> None:
        if bool(self.sha256) == self.unpinned:
            raise ValueError(
                f"kind {self.kind} needs sha256, or unpinned: true where it cannot be known in advance, and not both"
            )
        if self.several and self.sha256 and not self.checksums:
            raise ValueError("one sha256 cannot pin several files: name their SHA256SUMS file in checksums")

    @property
    def several(self) -> bool:
        """Whether this is a store of more than one file, or may be."""
        return len(self.files) > 1 or bool(self.listing) or any(map(is_pattern, self.files))

    @property
    def name(self) -> str:
        """The origin as messages name it."""
        if self.files:
            return self.files[0] + (f" and {len(self.files) - 1} more" if len(self.files) > 1 else "")
        return f"{self.package} {self.version}" if self.package else str(self.url or self.path or self.listing)


@dataclass(frozen=True)
class Params:
    """See the package's docstring.

    Attributes:
        accepted_licences: the only licences that may enter; a source under another one is refused by name.
        on_bad_document: what to do with a document or file that cannot be used: `stop`, or `quarantine` it: leave it out,
            count it and list it with its reason.
        max_quarantine_share: of a source's records; more stop the build. A reader or pattern is wrong then, not the records.
        max_record_bytes: of one document as it stands in its file; a larger one is passed over without being loaded.
        max_expansion: bytes that a byte of a compressed file may become, on average; DEFLATE reaches 1,032.
        max_member_bytes: bytes that one compressed file or archive member may become.
        tolerance: relative difference from a source's expected size that is accepted.
        shard_bytes: text bytes after which a new shard begins; also the bytes of small files that one worker reads together.
    """

    origins: tuple[Origin, ...]
    accepted_licences: tuple[str, ...]
    on_bad_document: Annotated[str, OneOf("stop", "quarantine")] = "stop"
    max_quarantine_share: Fraction = 0.05
    max_record_bytes: Positive = 64 * 2**20
    max_expansion: Annotated[float, Range(1.0, 1e9)] = 200.0
    max_member_bytes: Positive = 2**40
    tolerance: Fraction = 0.01
    shard_bytes: Positive = 128 * 2**20

    def __post_init__(self) -> None:
        sources = [source for origin in self.origins for source in origin.sources]
        if not sources:
            raise ValueError("origins is empty; name at least one")
        for name, count in Counter(source.id for source in sources).items():
            if count > 1:
                raise ValueError(f"source id {name!r} stands {count} times")
        for source in sources:
            if source.licence not in self.accepted_licences:
                raise ValueError(
                    f"source {source.id}: licence {source.licence!r} is not accepted; accepted: "
                    f"{', '.join(self.accepted_licences)}. Remedy: add it to accepted_licences, or remove the source"
                )


def is_pattern(name: str) -> bool:
    """Whether a name holds shell wildcards."""
    return _WILD.search(name) is not None
