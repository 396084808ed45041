"""The corpus section of `params.yaml`: origins (where bytes come from) and the sources that are read from each."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

from stages._params import OneOf, Positive

Kind = Annotated[str, OneOf("pypi", "npm", "http", "local")]
ReaderName = Annotated[str, OneOf("text", "play", "poems", "mediawiki", "jsonl", "parquet")]
Language = Annotated[str, OneOf("en", "zh")]

_REQUIRED = {
    "pypi": ("package", "version", "file", "sha256"),
    "npm": ("package", "version", "file", "sha256"),
    "http": ("url", "file", "sha256"),
    "local": ("path",),
}
_OPTIONAL = {"local": ("sha256",)}
_FIELDS = ("package", "version", "file", "url", "path", "sha256")


@dataclass(frozen=True)
class Source:
    """One source id: which files of its origin it takes, how they are read, and what may be done with them.

    Attributes:
        id: name in `doc_id`, in file names and in every later report.
        reader: how one file becomes documents.
        members: shell patterns of the files, relative to `folder` (`*` also crosses `/`); `!pattern` leaves files out.
            A pattern that matches nothing stops the build.
        lang: the language that the source claims.
        licence: SPDX expression or LicenseRef; must stand in `accepted_licences`.
        rights: why this licence holds; copied to the register.
        folder: folder inside the origin that document paths are relative to.
        author: author of the documents whose file names none.
        max_bytes: documents are taken in the source's own order while their UTF-8 text stays within this; null takes all.
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

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", self.id):
            raise ValueError(f"source id {self.id!r}: use lower-case letters, digits and hyphens")
        if not self.members:
            raise ValueError(f"source {self.id}: members is empty; name at least one pattern")


@dataclass(frozen=True)
class Origin:
    """One archive, file or folder and the sources read from it in one pass.

    Attributes:
        kind: `pypi` and `npm` ask a package index, `http` takes a URL, `local` a file or folder on this machine.
        package, version, file: what the index is asked for; `file` also tells the archive's format.
        sha256: of the file's bytes. Optional for `local`, where it covers a folder's names and contents.
        url: for `http`.
        path: for `local`; relative to the project, where it must also be declared in dvc.yaml.
    """

    kind: Kind
    sources: tuple[Source, ...]
    package: str | None = None
    version: str | None = None
    file: str | None = None
    url: str | None = None
    path: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        required = _REQUIRED[self.kind]
        for name in _FIELDS:
            given = getattr(self, name) is not None
            if name in required and not given:
                raise ValueError(f"kind {self.kind} needs {name}")
            if given and name not in required + _OPTIONAL.get(self.kind, ()):
                raise ValueError(f"kind {self.kind} does not take {name}; it takes {', '.join(required)}")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 {self.sha256!r}: expected 64 lower-case hexadecimal digits")
        if not self.sources:
            raise ValueError(f"origin {self.name}: no sources")

    @property
    def name(self) -> str:
        """The origin as messages name it."""
        return f"{self.package} {self.version}" if self.package else str(self.url or self.path)


@dataclass(frozen=True)
class Params:
    """See the package's docstring.

    Attributes:
        accepted_licences: the only licences that may enter; a source under another one is refused by name.
        on_bad_document: what to do with an empty or undecodable document: `stop`, or `skip` it and count it.
        shard_bytes: text bytes after which a new shard begins.
    """

    origins: tuple[Origin, ...]
    accepted_licences: tuple[str, ...]
    on_bad_document: Annotated[str, OneOf("stop", "skip")] = "stop"
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
