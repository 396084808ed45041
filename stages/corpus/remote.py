"""Files by URL: https through the same transport as the package indexes, every other scheme through fsspec.

Endpoints and credentials of object stores are where their own libraries look for them: AWS_ENDPOINT_URL, AWS_PROFILE,
~/.aws/..., FSSPEC_S3_ANON=true and the like, never in params.yaml.
"""

from __future__ import annotations

import fnmatch
import re
import urllib.error
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import IO, Any

from stages._transport import Transport
from stages.corpus.params import is_pattern

_SUM = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@dataclass(frozen=True)
class Reply:
    """An open file.

    Attributes:
        stream: its bytes from `start` on; to be closed.
        start: where the server really begins: 0 where it knows no ranges, or has nothing behind what was asked for.
        length: bytes that follow, None where the server does not say.
        etag, modified: what the server says about this version of the file.
    """

    stream: Any
    start: int
    length: int | None
    etag: str | None = None
    modified: str | None = None


def open_at(url: str, start: int, transport: Transport) -> Reply:
    """A file from its byte `start` on.

    Raises:
        LookupError: there is no such file, or nobody may read it.
        OSError: any other failure; http.client.HTTPException as well.
        ValueError: no address of a known scheme.
    """
    return _open_http(url, start, transport) if is_http(url) else _open_store(url, start)


def is_http(url: str) -> bool:
    """Whether the transport of the package indexes serves this address."""
    return url.startswith(("http://", "https://"))


def public(url: str) -> str:
    """The address without user name, password and query, which may hold a signature: fit for messages and registers."""
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    address = f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
    return re.split(r"[?#]", address)[0] if is_http(url) else address


def expand(patterns: Iterable[str], known: Collection[str] | None) -> list[str]:
    """The addresses that `patterns` stand for: sorted within each pattern, in the order of the patterns, each once.

    Args:
        patterns: addresses, with or without shell wildcards.
        known: addresses to match; None asks the server.

    Raises:
        LookupError: a pattern matches nothing, or there is nothing to match it with.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        if not is_pattern(pattern):
            matching = [pattern]
        elif known is not None:
            matching = fnmatch.filter(known, pattern)
        elif is_http(pattern):
            why = "a web server has no list of its files; name them, or give checksums or listing"
            raise LookupError(f"{public(pattern)}: {why}")
        else:
            matching = _glob(pattern)
        if not matching:
            raise LookupError(f"no file matches {public(pattern)}")
        found |= dict.fromkeys(sorted(matching))
    return list(found)


def parse_sums(text: str, url: str) -> dict[str, str]:
    """Address and SHA-256 of every file that the `SHA256SUMS` file at `url` lists.

    Raises:
        ValueError: a line is not of the form that sha256sum writes.
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _SUM.fullmatch(line.rstrip())
        if match:
            sums[f"{url.rpartition('/')[0]}/{match[2].removeprefix('./')}"] = match[1]
        elif line.strip():
            raise ValueError(f"line {number} is not `<sha256>  <name>`: {line[:80]!r}")
    return sums


def common_folder(patterns: Iterable[str]) -> str:
    """The deepest folder that holds everything the patterns may match; names of files are relative to it."""
    folders = [re.split(r"[*?\[]", pattern)[0].rpartition("/")[0].split("/") for pattern in patterns]
    shared = [parts[0] for parts in zip(*folders, strict=False) if len(set(parts)) == 1]
    depth = next((n for n, parts in enumerate(zip(*folders, strict=False)) if len(set(parts)) > 1), len(shared))
    return "/".join(shared[:depth])


def _open_http(url: str, start: int, transport: Transport) -> Reply:
    try:
        response = transport.open(url, {"Range": f"bytes={start}-"} if start else {})
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        response = transport.open(url, {})  # nothing lies behind what is here: it is complete, or it is wrong
    headers = response.headers
    resumes = response.status == 206 and (headers.get("Content-Range") or "").startswith(f"bytes {start}-")
    length = headers.get("Content-Length")
    return Reply(
        response, start if resumes else 0, int(length) if length else None, headers.get("ETag"), headers.get("Last-Modified")
    )


def _open_store(url: str, start: int) -> Reply:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        filesystem.invalidate_cache()
        info = filesystem.info(path)
        length = int(info["size"])
        start = start if start < length else 0
        stream: IO[bytes] = filesystem.open(path, "rb")
        stream.seek(start)
    except (FileNotFoundError, PermissionError) as error:
        raise LookupError(f"{public(url)}: {type(error).__name__}") from error
    except (OSError, ValueError, ImportError):
        raise
    except Exception as error:  # stores have exceptions of their own for a connection that fails
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
    modified = info.get("LastModified") or info.get("last_modified")
    return Reply(stream, start, length - start, info.get("ETag"), str(modified) if modified else None)


def _glob(pattern: str) -> list[str]:
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(pattern)
    filesystem.invalidate_cache()
    return [filesystem.unstrip_protocol(name) for name in filesystem.glob(path)]
