"""The report as a reader gets it: written by `python -m stages.report`, opened from disk in a real Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ledger.query import Ledger
from tests.support.ledger_project import REPOSITORY
from tests.support.report_project import make_report_project

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = "no Chromium on this machine: install it by `apt-get install chromium` to test the page in a browser"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--enable-logging=stderr", "--virtual-time-budget=20000", "--window-size=1400,900",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--net-log-capture-mode=IncludeSensitive", "--dump-dom",
)  # fmt: skip


@dataclass(frozen=True)
class Visit:
    """What came of opening an address: the document after its scripts ran, console messages, what it asked the network."""

    dom: str
    console: list[str]
    requests: list[str]

    def rows(self) -> list[list[str]]:
        """The cells of the search's answer, row by row."""
        reader = _Rows()
        reader.feed(self.dom)
        return reader.found


class _Rows(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[list[str]] = []
        self._inside = self._body = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._inside = ("id", "found") in attrs and not any(name == "hidden" for name, _ in attrs)
        self._body = self._inside and (tag == "tbody" or self._body)
        if self._body and tag == "tr":
            self.found.append([])
        elif self._body and tag in ("th", "td"):
            self.found[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("table", "tbody"):
            self._body = False

    def handle_data(self, data: str) -> None:
        if self._body and self.found and self.found[-1]:
            self.found[-1][-1] += data


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None and os.environ.get("CI"):
        pytest.fail(MISSING)
    if found is None:
        pytest.skip(MISSING)
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose report was written as `dvc repro` writes it: by a process in the sandbox."""
    root = make_report_project(tmp_path_factory.mktemp("report") / "project")
    command = [sys.executable, "-m", "stages.report"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return root


def visit(browser: str, file: Path, folder: Path, fragment: str = "") -> Visit:
    """Open a file and wait until its scripts have run. Names do not resolve, so whatever asks an outside host fails."""
    log = folder / "net.json"
    command = [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", f"{file.as_uri()}{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0 and "</html>" in done.stdout, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    record = json.loads(log.read_text(encoding="utf-8"))
    started = record["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    jobs = [event["params"] for event in record["events"] if event["type"] == started and "url" in event.get("params", {})]
    own = [job["url"] for job in jobs if job.get("initiator") != "not an origin"]  # the browser's own errands have none
    return Visit(done.stdout, console, own)


def test_the_instruments_show_what_they_are_to_show(browser: str, tmp_path: Path) -> None:
    """A page that does ask a host and does write to the console: else the tests below would prove nothing."""
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><html><body><img src='http://example.org/x.png'><script>console.error('seen')</script></body></html>",
        encoding="utf-8",
    )
    seen = visit(browser, page, tmp_path)
    assert seen.requests == ["http://example.org/x.png"]
    assert any("seen" in line for line in seen.console)
    assert seen.rows() == []


def test_the_page_is_quiet_and_asks_nobody(browser: str, project: Path, tmp_path: Path) -> None:
    """Hostile document text stands in this project: none of it may run."""
    seen = visit(browser, project / "data/report/index.html", tmp_path)
    assert seen.console == []
    assert seen.requests == []
    assert "onerror=alert(1)" in seen.dom and "<img" not in seen.dom
    assert seen.rows() == []


def test_the_search_answers_as_the_ledger_does(browser: str, project: Path, tmp_path: Path) -> None:
    """Every document of a source, by a fragment of its id: what became of it, how often and in which steps it was seen."""
    seen = visit(browser, project / "data/report/index.html", tmp_path, "#doc=TALES/1")
    assert seen.console == [] and seen.requests == []
    rows = {row[0]: row[1:] for row in seen.rows()}
    assert re.search(rf'role="status"[^>]*>{len(rows)} documents\.<', seen.dom)
    assert next(iter(rows)) == "tales/1", "the exact id comes first"
    corpus = pq.read_table(project / "data/corpus/documents/tales-00000.parquet")["doc_id"].to_pylist()
    assert set(rows) == {name for name in corpus if "tales/1" in name} and len(rows) > 5
    train = pq.read_table(project / "data/encode/train.documents.parquet")["doc_id"].to_pylist()
    ledger = Ledger(project)
    asked = 0
    for name, (fate, exposures, tokens, steps) in rows.items():
        if name not in train:
            assert (exposures, tokens, steps) == ("", "", "")
            assert ("held out" in fate) == ("is held out" in ledger.fate(name))
            continue
        sighting = ledger.seen(name).sightings[-1]
        assert sighting.checkpoint == "step-000024"
        assert (int(exposures), int(tokens)) == (sighting.exposures, sighting.tokens)
        found = [int(part.partition(" ")[0]) for part in steps.split(", ")] if steps else []
        assert tuple(found) == sighting.steps
        asked += 1
    assert asked > 3


def test_a_document_with_an_odd_name_is_found_and_shown_as_text(browser: str, project: Path, tmp_path: Path) -> None:
    seen = visit(browser, project / "data/report/index.html", tmp_path, "#doc=" + quote("tales/<odd>"))
    assert [row[0] for row in seen.rows()] == ["tales/<odd>"]
    assert seen.console == []


def test_a_removed_document_names_its_reason(browser: str, project: Path, tmp_path: Path) -> None:
    clusters = pq.read_table(project / "data/dedup/clusters.parquet")
    copy = clusters.filter(pc.invert(clusters["survivor"])).to_pylist()[0]
    seen = visit(browser, project / "data/report/index.html", tmp_path, "#doc=" + quote(copy["doc_id"]))
    assert seen.rows()[0][:2] == [copy["doc_id"], f"{copy['kind']} duplicate of {copy['cluster']}"]


def test_no_match_says_so(browser: str, project: Path, tmp_path: Path) -> None:
    seen = visit(browser, project / "data/report/index.html", tmp_path, "#doc=50%")  # not a valid percent encoding either
    assert re.search(r'role="status"[^>]*>0 documents\.<', seen.dom)
    assert seen.rows() == [] and seen.console == []
