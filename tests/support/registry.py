"""A package index on the loopback address: PyPI (PEP 691 and PEP 503) and npm, with packages built on the fly.

    with Registry() as registry:
        registry.add_pypi("tales", "1.0", "tales-1.0.tar.gz", targz({"tales-1.0/a.txt": b"..."}))
        monkeypatch.setenv(...)  # each of registry.environment()

It can lie about the bytes, cut connections, answer with an error or be down, and it remembers what it was asked.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import yaml

from tests.support import text


def targz(files: dict[str, bytes]) -> bytes:
    """A `.tar.gz` or `.tgz` archive; equal files give equal bytes."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), mtime=0)


def wheel(files: dict[str, bytes]) -> bytes:
    """A `.whl` or `.zip` archive; equal files give equal bytes."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return raw.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Registry:
    """The server; start it as a context manager.

    Attributes:
        html: serve PEP 503 pages instead of PEP 691.
        tampered: change the last byte of every file served.
        cuts: how many of the next file downloads are cut off.
        cut_at: the byte at which they are cut.
        status: answer everything with this HTTP status.
        ranges: honour Range requests.
        public_npm: name the public registry in npm metadata, as plain mirrors do.
        overstated: bytes by which every Content-Length of a file is too large.
        requests: (path, Range header or None) of every request so far.
    """

    html: bool = False
    tampered: bool = False
    cuts: int = 0
    cut_at: int = 1000
    status: int | None = None
    ranges: bool = True
    public_npm: bool = False
    overstated: int = 0
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    _pypi: dict[str, dict[str, str]] = field(default_factory=dict)  # package -> file -> address
    _npm: dict[str, dict[str, str]] = field(default_factory=dict)  # package -> version -> address
    _files: dict[str, bytes] = field(default_factory=dict)

    def __enter__(self) -> Registry:
        handler = type("Handler", (_Handler,), {"registry": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Be down: the port refuses connections from now on."""
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """The variables that send pip's and npm's users (and the corpus stage) here, without proxies or long waits."""
        return {
            "PIP_INDEX_URL": f"{self.url}/simple",
            "NPM_CONFIG_REGISTRY": f"{self.url}/npm/",
            "npm_config_registry": f"{self.url}/npm/",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "PIP_RETRIES": "2",
            "PIP_DEFAULT_TIMEOUT": "10",
        }

    def add_pypi(self, package: str, version: str, file: str, data: bytes) -> dict[str, Any]:
        """Publish a distribution and return its origin for params.yaml, still without sources."""
        self._files[f"/files/{file}"] = data
        self._pypi.setdefault(re.sub(r"[-_.]+", "-", package).lower(), {})[file] = f"../../files/{file}"
        return {"kind": "pypi", "package": package, "version": version, "file": file, "sha256": sha256(data)}

    def add_npm(self, package: str, version: str, data: bytes) -> dict[str, Any]:
        """Publish a package and return its origin for params.yaml, still without sources."""
        file = f"{package.rpartition('/')[2]}-{version}.tgz"
        path = f"/{package}/-/{file}"
        self._files[f"/npm{path}"] = data
        self._npm.setdefault(package, {})[version] = path
        return {"kind": "npm", "package": package, "version": version, "file": file, "sha256": sha256(data)}

    def add_file(self, path: str, data: bytes) -> str:
        """Publish a plain file below /files and return its address; files have an ETag and a Last-Modified date."""
        self._files[f"/files/{path}"] = data
        return f"{self.url}/files/{path}"

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """(media type, body) of an index page or a file; None: there is none."""
        if path in self._files:
            data = self._files[path]
            return "application/octet-stream", data[:-1] + bytes([data[-1] ^ 1]) if self.tampered else data
        package = path.removeprefix("/simple/").strip("/")
        if path.startswith("/simple/") and package in self._pypi:
            return self._simple_page(package)
        package = path.removeprefix("/npm/").replace("%2F", "/").replace("%2f", "/")
        if path.startswith("/npm/") and package in self._npm:
            host = "https://registry.npmjs.org" if self.public_npm else f"{self.url}/npm"
            versions = {version: {"dist": {"tarball": host + where}} for version, where in self._npm[package].items()}
            return "application/json", json.dumps({"name": package, "versions": versions}).encode()
        return None

    def _simple_page(self, package: str) -> tuple[str, bytes]:
        links = self._pypi[package]
        if self.html:
            anchors = "".join(f'<a href="{where}#sha256=0">{file}</a><br>\n' for file, where in links.items())
            return "text/html", f"<!DOCTYPE html><html><body>{anchors}</body></html>".encode()
        files = [{"filename": file, "url": where, "hashes": {}} for file, where in links.items()]
        page = {"meta": {"api-version": "1.0"}, "name": package, "files": files}
        return "application/vnd.pypi.simple.v1+json", json.dumps(page).encode()


class _Handler(BaseHTTPRequestHandler):
    registry: Registry

    def do_GET(self) -> None:
        registry = self.registry
        asked = self.headers.get("Range")
        registry.requests.append((self.path, asked))
        found = registry.answer(self.path)
        if registry.status is not None or found is None:
            self.send_error(registry.status or 404)
            return
        media, body = found
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and registry.ranges else 0
        if start and start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", media)
        is_file = media == "application/octet-stream"
        self.send_header("Content-Length", str(len(body) - start + (registry.overstated if is_file else 0)))
        if is_file:
            self.send_header("ETag", f'"{sha256(body)[:16]}"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        end = len(body)
        if registry.cuts > 0 and is_file:
            registry.cuts -= 1
            end = min(end, start + registry.cut_at)
        self.wfile.write(body[start:end])

    def log_message(self, format: str, *args: Any) -> None:
        pass  # the tests read `registry.requests` instead


def made_up_corpus(registry: Registry, size: int = 200_000, seed: int = 1) -> dict[str, Any]:
    """Publish two packages of generated text and return the `corpus` section of params.yaml that builds from them.

    Args:
        registry: where they are published.
        size: about how many UTF-8 bytes of text each language gets.
        seed: of the text.

    The sources are `made-tales` (English, PyPI sdist, text files), `made-poems` (Chinese, npm, JSON) and
    `made-poems-again` (a tenth of those poems in another edition that differs by a few characters).
    """
    tales = {f"tales-1.0/texts/{n:03}.txt": text.text("en", f"{seed} {n}", 2000).encode() for n in range(size // 2200 + 1)}
    poems = [_poem(seed, number) for number in range(size // 900 + 1)]
    again = [{**poem, "paragraphs": [*poem["paragraphs"], "完。"]} for poem in poems[::10]]
    package = {
        "package/dist/poems.json": json.dumps(poems, ensure_ascii=False).encode(),
        "package/dist/again.json": json.dumps(again, ensure_ascii=True).encode(),
    }
    common = {"licence": "CC0-1.0", "rights": "generated by this project"}
    zh = {**common, "reader": "poems", "lang": "zh", "folder": "package/dist"}
    tale = {**common, "id": "made-tales", "reader": "text", "lang": "en", "folder": "tales-1.0/texts", "members": ["*.txt"]}
    return {
        "accepted_licences": ["CC0-1.0"],
        "on_bad_document": "stop",
        "origins": [
            {**registry.add_pypi("tales", "1.0", "tales-1.0.tar.gz", targz(tales)), "sources": [tale]},
            {
                **registry.add_npm("poems", "1.0.0", targz(package)),
                "sources": [
                    {**zh, "id": "made-poems", "members": ["poems.json"]},
                    {**zh, "id": "made-poems-again", "members": ["again.json"]},
                ],
            },
        ],
    }


def write_corpus_section(params: Path, section: dict[str, Any]) -> None:
    """Put `section` in place of the corpus section of a (temporary) project's params.yaml; other sections stay."""
    sections = yaml.safe_load(params.read_text(encoding="utf-8")) if params.is_file() else {}
    sections["corpus"] = section
    params.write_text(yaml.safe_dump(sections, allow_unicode=True, sort_keys=False), encoding="utf-8")


def _poem(seed: int, number: int) -> dict[str, Any]:
    lines = text.text("zh", f"{seed} {number}", 800).split("\n")
    return {"title": f"第{number}首", "author": "无名氏", "paragraphs": lines, "notes": ["notes are left out"]}
