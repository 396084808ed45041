"""Where a package's file lies: the PyPI simple index (PEP 691, else PEP 503) and the npm registry.

The index is the one that pip and npm would ask: PIP_INDEX_URL or pip's configuration file; npm_config_registry,
NPM_CONFIG_REGISTRY or .npmrc; else the public one.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

PYPI = "https://pypi.org/simple"
NPM = "https://registry.npmjs.org"

# (url, accepted media types) -> (final url, media type, body)
Get = Callable[[str, str], tuple[str, str, bytes]]


def pypi_url(package: str, file: str, get: Get) -> str:
    """Address of a distribution file.

    Raises:
        LookupError: the index does not list it.
    """
    name = re.sub(r"[-_.]+", "-", package).lower()
    page = f"{_pypi_index().rstrip('/')}/{quote(name)}/"
    base, media, body = get(page, "application/vnd.pypi.simple.v1+json, text/html;q=0.1")
    if "json" in media:
        links = {entry["filename"]: entry["url"] for entry in json.loads(body)["files"]}
    else:
        parser = _Links()
        parser.feed(body.decode("utf-8"))
        links = parser.links
    if file not in links:
        raise LookupError(f"the index page of {package} does not list {file}")
    return urljoin(base, links[file])


def npm_url(package: str, version: str, get: Get) -> str:
    """Address of a package's tarball.

    Raises:
        LookupError: the registry does not list this version.
    """
    registry = _npm_registry()
    page = f"{registry.rstrip('/')}/{quote(package, safe='@')}"
    base, _, body = get(page, "application/vnd.npm.install-v1+json, application/json;q=0.8")
    versions = json.loads(body).get("versions", {})
    if version not in versions:
        raise LookupError(f"the registry page of {package} does not list version {version}")
    tarball = urlsplit(urljoin(base, versions[version]["dist"]["tarball"]))
    if tarball.netloc == urlsplit(NPM).netloc:  # a mirror may pass on the public address; npm asks the mirror then
        own = urlsplit(registry)
        tarball = tarball._replace(scheme=own.scheme, netloc=own.netloc, path=own.path.rstrip("/") + tarball.path)
    return urlunsplit(tarball)


def _pypi_index() -> str:
    if os.environ.get("PIP_INDEX_URL"):
        return os.environ["PIP_INDEX_URL"]
    named = os.environ.get("PIP_CONFIG_FILE")
    home = Path.home()
    places = [Path(sys.prefix), home / ".config" / "pip", home / ".pip", Path("/etc")]
    for file in [*([Path(named)] if named else []), *(place / "pip.conf" for place in places)]:
        config = configparser.RawConfigParser(strict=False)
        try:
            config.read(file, encoding="utf-8")
        except configparser.Error as error:
            raise LookupError(f"pip's configuration file {file} is not readable: {error}") from error
        if config.has_option("global", "index-url"):
            return config.get("global", "index-url").strip()
    return PYPI


def _npm_registry() -> str:
    environment = {name.lower(): value for name, value in os.environ.items() if value}  # npm ignores the case here
    if "npm_config_registry" in environment:
        return environment["npm_config_registry"]
    file = Path(environment.get("npm_config_userconfig", Path.home() / ".npmrc"))
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    settings = dict(line.replace(" ", "").split("=", 1) for line in lines if "=" in line)
    return settings.get("registry", NPM)


class _Links(HTMLParser):
    """File name to address, from the anchors of a PEP 503 page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href") if tag == "a" else None
        if href:
            address = href.partition("#")[0]
            self.links[unquote(urlsplit(address).path.rpartition("/")[2])] = address
