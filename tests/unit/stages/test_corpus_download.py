from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages import _transport as transport
from stages._params import parse
from stages._runner import StageError, StageIO
from stages.corpus.download import fetch
from stages.corpus.params import Origin
from tests.support.registry import Registry, sha256

DATA = bytes(range(256)) * 40
SOURCE = {"id": "tales", "reader": "text", "members": ["*"], "lang": "en", "licence": "CC0-1.0", "rights": "ours"}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setattr(transport.time, "sleep", lambda seconds: None)
    with Registry() as registry:
        for name, value in registry.environment().items():
            monkeypatch.setenv(name, value)
        yield registry


@pytest.fixture
def io(tmp_path: Path) -> StageIO:
    return StageIO("corpus", tmp_path, [], "data/corpus")


def pypi(registry: Registry, **changes: Any) -> Origin:
    published = registry.add_pypi("My_Tales", "1.0", "my_tales-1.0.tar.gz", DATA)
    return parse(Origin, {**published, "sources": [SOURCE], **changes}, "origin")


def npm(registry: Registry, package: str = "tales") -> Origin:
    return parse(Origin, {**registry.add_npm(package, "1.0.0", DATA), "sources": [SOURCE]}, "origin")


def asked_for_files(registry: Registry) -> list[str | None]:
    return [asked for path, asked in registry.requests if path.startswith("/files/")]


@pytest.mark.parametrize("html", [False, True])
def test_pypi_index_as_json_and_as_html(registry: Registry, io: StageIO, html: bool) -> None:
    registry.html = html
    path, found = fetch(pypi(registry), io)
    assert path.read_bytes() == DATA
    assert found == path.name == sha256(DATA)
    assert registry.requests[0][0] == "/simple/my-tales/"


@pytest.mark.parametrize("package", ["tales", "@scope/tales"])
@pytest.mark.parametrize("public", [False, True])
def test_npm_tarball_comes_from_the_registry_that_was_asked(
    registry: Registry, io: StageIO, package: str, public: bool
) -> None:
    registry.public_npm = public
    path, _ = fetch(npm(registry, package), io)
    assert path.read_bytes() == DATA


def test_http_origin_needs_no_index(registry: Registry, io: StageIO) -> None:
    pypi(registry)
    url = f"{registry.url}/files/my_tales-1.0.tar.gz"
    origin = parse(Origin, {"kind": "http", "url": url, "file": "t.tar.gz", "sha256": sha256(DATA), "sources": [SOURCE]}, "o")
    assert fetch(origin, io)[0].read_bytes() == DATA


def test_verified_download_is_used_again_with_the_network_cut(registry: Registry, io: StageIO) -> None:
    origin = pypi(registry)
    first = fetch(origin, io)
    registry.stop()
    assert fetch(origin, io) == first


def test_damaged_download_is_found_and_fetched_again(registry: Registry, io: StageIO) -> None:
    origin = pypi(registry)
    path, _ = fetch(origin, io)
    path.write_bytes(DATA[:-1] + b"!")
    assert fetch(origin, io)[0].read_bytes() == DATA


def test_wrong_checksum_names_source_file_both_sums_and_remedy(registry: Registry, io: StageIO) -> None:
    registry.tampered = True
    origin = pypi(registry)
    found = sha256(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    with pytest.raises(StageError) as error:
        fetch(origin, io)
    message = str(error.value)
    for part in ("tales", "my_tales-1.0.tar.gz", f"expected {sha256(DATA)}", f"found {found}", "Remedy"):
        assert part in message
    assert list(io.scratch("downloads").iterdir()) == []


def test_cut_download_is_resumed_where_it_ended(registry: Registry, io: StageIO) -> None:
    registry.cuts = 2
    assert fetch(pypi(registry), io)[0].read_bytes() == DATA
    assert asked_for_files(registry) == [None, "bytes=1000-", "bytes=2000-"]


def test_cut_download_is_redone_where_the_server_knows_no_ranges(registry: Registry, io: StageIO) -> None:
    registry.cuts, registry.ranges = 1, False
    assert fetch(pypi(registry), io)[0].read_bytes() == DATA


def test_part_left_by_a_killed_run_is_resumed(registry: Registry, io: StageIO) -> None:
    (io.scratch("downloads") / f"{sha256(DATA)}.partial").write_bytes(DATA[:4000])
    assert fetch(pypi(registry), io)[0].read_bytes() == DATA
    assert asked_for_files(registry) == ["bytes=4000-"]


@pytest.mark.parametrize("part", [b"another file's beginning", DATA, DATA + b"too long"])
def test_useless_part_is_thrown_away(registry: Registry, io: StageIO, part: bytes) -> None:
    (io.scratch("downloads") / f"{sha256(DATA)}.partial").write_bytes(part)
    assert fetch(pypi(registry), io)[0].read_bytes() == DATA


def test_connection_cut_every_time_gives_up_with_a_remedy(registry: Registry, io: StageIO) -> None:
    registry.cuts, registry.cut_at = 99, 0
    with pytest.raises(StageError, match=r"cannot download My_Tales 1\.0: .*ended after 0 of .*PIP_INDEX_URL.*downloads/"):
        fetch(pypi(registry), io)
    assert len(asked_for_files(registry)) == 3  # once, and PIP_RETRIES=2 times again


def test_registry_down_gives_up_with_a_remedy(registry: Registry, io: StageIO) -> None:
    origin = npm(registry)
    registry.stop()
    with pytest.raises(StageError, match=r"sources tales: cannot download tales 1\.0\.0: .*NPM_CONFIG_REGISTRY"):
        fetch(origin, io)


@pytest.mark.parametrize(("status", "requests"), [(503, 3), (404, 1), (403, 1)])
def test_only_passing_http_errors_are_tried_again(registry: Registry, io: StageIO, status: int, requests: int) -> None:
    registry.status = status
    with pytest.raises(StageError, match=f"HTTP {status}"):
        fetch(pypi(registry), io)
    assert len(registry.requests) == requests


def test_unlisted_file_and_version_are_named(registry: Registry, io: StageIO) -> None:
    with pytest.raises(StageError, match=r"does not list other\.whl"):
        fetch(pypi(registry, file="other.whl"), io)
    published = {**registry.add_npm("tales", "1.0.0", DATA), "version": "2.0.0", "sources": [SOURCE]}
    with pytest.raises(StageError, match=r"does not list version 2\.0\.0"):
        fetch(parse(Origin, published, "origin"), io)


def test_password_of_the_index_goes_to_its_host_and_into_no_message(
    registry: Registry, io: StageIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str | None] = []
    opened = transport.urllib.request.urlopen

    def record(request: Any, **settings: Any) -> Any:
        sent.append(request.get_header("Authorization"))
        return opened(request, **settings)

    monkeypatch.setattr(transport.urllib.request, "urlopen", record)
    monkeypatch.setenv("PIP_INDEX_URL", registry.url.replace("//", "//reader:se%2Fcret@") + "/simple")
    fetch(pypi(registry), io)
    secret = "Basic " + base64.b64encode(b"reader:se/cret").decode()
    assert sent == [secret, secret]
    registry.stop()
    with pytest.raises(StageError) as error:
        fetch(pypi(registry, sha256="0" * 64), io)
    assert "cret" not in str(error.value)


def test_index_of_pips_configuration_file_is_used(
    registry: Registry, io: StageIO, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PIP_INDEX_URL")
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {registry.url}/simple/\n", encoding="utf-8")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert fetch(pypi(registry), io)[0].read_bytes() == DATA


def test_registry_of_npmrc_is_used(registry: Registry, io: StageIO, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NPM_CONFIG_REGISTRY")
    monkeypatch.delenv("npm_config_registry")
    (tmp_path / "npmrc").write_text(f"; a comment\nregistry = {registry.url}/npm/\n", encoding="utf-8")
    monkeypatch.setenv("NPM_CONFIG_USERCONFIG", str(tmp_path / "npmrc"))
    assert fetch(npm(registry), io)[0].read_bytes() == DATA


def test_missing_certificate_file_is_named(registry: Registry, io: StageIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CERT", "/no/such/file.pem")
    with pytest.raises(StageError, match="PIP_CERT names a certificate file that does not exist"):
        fetch(pypi(registry), io)


def test_full_disk_is_not_taken_for_a_network_error(registry: Registry, io: StageIO, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stages.corpus.download.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(pypi(registry), io)
    assert len(asked_for_files(registry)) == 1
