"""The explorer as a reader gets it: opened in a real Chromium, asked by keyboard and address, compared with the ledger."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ledger.order import Order, permute, unpermute
from ledger.query import Ledger
from ledger.schedule import BatchRamp
from stages.report.corpus import removals
from stages.report.explorer.columns import Columns
from stages.report.explorer.documents import read_documents
from stages.report.explorer.history import Pieces
from stages.report.explorer.page import render, told
from stages.report.facts import Facts
from tests.support.browser import Browser
from tests.support.explorer_project import make_crawl
from tests.support.report_page import report, stage_io
from tests.support.report_project import make_report_project

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = "no Chromium on this machine: install it by `apt-get install chromium` to test the page in a browser"
LARGE = 1_000_000


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project after its report stage."""
    root = make_report_project(tmp_path_factory.mktemp("explorer") / "project")
    report(root)
    stage_io(root).output.rename(root / "data/report")
    return root


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(MISSING)
    with Browser(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def visit(browser: Browser, project: Path, fragment: str = "") -> None:
    browser.problems.clear()
    browser.open(project / "data/report/explorer.html", fragment)


def sightings(browser: Browser, doc_id: str) -> list[list[Any]]:
    """What the page computes: for each segment exposures, tokens and steps."""
    script = f"""Store.place({json.dumps(doc_id)}).then(Store.seen).then(
      (seen) => seen.sightings.map((one) => [one.exposures, one.tokens, one.steps]))"""
    found: list[list[Any]] = browser.ask(script)
    return found


def ledger_says(ledger: Ledger, doc_id: str) -> list[list[Any]]:
    return [[one.exposures, one.tokens, list(one.steps)] for one in ledger.seen(doc_id).sightings]


def halves(seed: int) -> list[int]:
    return [seed >> 32, seed & 0xFFFFFFFF]


@pytest.mark.parametrize("samples", [1, 2, 3, 255, 15_420, 2**20, 2**31 + 7, 208_000_000, 2**45 + 1, 2**52 - 3])
def test_the_formula_of_the_page_is_that_of_the_ledger(samples: int, browser: Browser, project: Path) -> None:
    """Both ways, for seeds up to 64 bits and epochs beyond 32 bits: 4 x 3 x 250 values for each size of an epoch."""
    visit(browser, project)
    draw = random.Random(samples)
    index = sorted({0, samples - 1, *(draw.randrange(samples) for _ in range(250))})
    for seed in (0, 1234, 2**63 + 9, 2**64 - 1):
        for epoch in (0, 1, 2**33 + 5):
            script = f"""(() => {{ const one = new Feistel({halves(seed)}, {samples});
              return {index}.map((value) => [one.permute({epoch}, value), one.unpermute({epoch}, value)]); }})()"""
            page = np.array(browser.ask(script), np.int64)
            assert (page[:, 0] == permute(seed, epoch, index, samples)).all()
            assert (page[:, 1] == unpermute(seed, epoch, index, samples)).all()


def test_rows_and_steps_of_the_page_are_those_of_the_plan(browser: Browser, project: Path) -> None:
    """Several passes over two masking epochs, and a ramp with uneven plateaus."""
    visit(browser, project)
    order, ramp = Order(2**60 + 3, 701, 2), BatchRamp(6, 18, 4, 1001)
    facts = {"seed": halves(order.seed), "samples": order.samples, "epochs": order.epochs}
    until = 5 * order.samples + 13
    rows = browser.ask(
        f"(() => {{ const o = new Order({facts}); return Array.from({{length: {until}}}, (_, c) => o.row(c)); }})()"
    )
    assert rows == order.rows(np.arange(until)).tolist()
    asked = list(range(0, 1402, 7))
    found = browser.ask(
        f"(() => {{ const o = new Order({facts}); return {asked}.map((row) => o.consumptions(row, {until})); }})()"
    )
    which, consumption = order.consumptions(asked, until)
    assert found == [sorted(consumption[which == place].tolist()) for place in range(len(asked))]
    told = {"start": 6, "end": 18, "increment": 4, "ramp_samples": 1001}
    script = (
        f"(() => {{ const r = new Ramp({told}); return [...Array(400).keys()].map((n) => [r.consumed(n), r.step(n * 9)]); }})()"
    )
    steps = np.arange(400)
    assert (np.array(browser.ask(script)) == np.stack([ramp.consumed(steps), ramp.step_of(steps * 9)], axis=1)).all()


def test_every_document_of_the_page_was_seen_as_the_ledger_says(browser: Browser, project: Path) -> None:
    """On every checkpoint, the abandoned branch and the passed-over step; the page asked nobody and said nothing."""
    visit(browser, project)
    ledger = Ledger(project)
    tables = ("data/encode/train.documents.parquet", "data/instruct/documents.parquet")
    names = [name for table in tables for name in pq.read_table(project / table)["doc_id"].to_pylist()]
    assert len(names) > 40
    for name in names:
        assert sightings(browser, name) == ledger_says(ledger, name)
    assert browser.problems == []
    assert [address for address in browser.requests if not address.startswith("file:")] == []
    assert len(browser.requests) == 1


def test_a_step_reads_what_the_ledger_says(browser: Browser, project: Path) -> None:
    visit(browser, project, "#step=13")
    ledger = Ledger(project)
    for step in (0, 13, 23):
        script = f"""Store.step({step}).then((read) => Promise.all(read.map(async (one) => [one.index, one.row,
          await Promise.all(one.held.map(async (part) => [(await Store.describe(part.document)).id, part.tokens]))])))"""
        rows: dict[int, tuple[int, dict[str, int]]] = {}
        for piece in ledger.step(step).pieces.to_pylist():
            held = rows.setdefault(piece["consumption"], (piece["row"], {}))[1]
            held[piece["doc_id"]] = held.get(piece["doc_id"], 0) + piece["length"]
        found: dict[int, tuple[int, dict[str, int]]] = {}
        for index, row, parts in browser.ask(script):
            held = found.setdefault(index, (row, {}))[1]
            for name, tokens in parts:
                held[name] = held.get(name, 0) + tokens
        assert found == rows
    text = browser.ask("document.getElementById('batch').textContent")
    assert "Step 13" in text and "passed over" in text and "abandoned" in text


def test_a_checkpoint_was_fed_what_the_ledger_says(browser: Browser, project: Path) -> None:
    """Documents, exposures and tokens by source; tokens over the steps add up to them."""
    visit(browser, project)
    ledger = Ledger(project)
    for number, segment in enumerate(ledger.journal.segments):
        if segment.checkpoint is None:
            continue
        diet = browser.ask(f"""Store.diet({number}).then((one) => ({{documents: [...one.documents], tokens: [...one.tokens],
          exposures: [...one.exposures], bins: one.bins.map((bin) => [...bin]), origins: Store.facts.origins}}))""")
        documents = ledger.documents(segment.checkpoint)
        for place, (source, lang, licence) in enumerate(diet["origins"]):
            same = pc.and_(pc.equal(documents["source"], source), pc.equal(documents["lang"], lang))
            part = documents.filter(pc.and_(same, pc.equal(documents["licence"], licence)))
            assert diet["documents"][place] == part.num_rows
            assert diet["tokens"][place] == (pc.sum(part["tokens"]).as_py() or 0)
            assert diet["exposures"][place] == (pc.sum(part["exposures"]).as_py() or 0)
            assert sum(bin[place] for bin in diet["bins"]) == diet["tokens"][place]


def test_the_search_is_worked_by_keyboard(browser: Browser, project: Path) -> None:
    """A slash, some letters, down, Enter: the document's panel; hostile names and texts stay text."""
    visit(browser, project)
    browser.press("/")
    assert browser.ask("document.activeElement.id") == "query"
    browser.type("tales/<ODD")
    browser.wait("document.querySelectorAll('#found [role=option]').length === 1")
    assert browser.ask("document.getElementById('answer').textContent").startswith("1 document in ")
    browser.press("ArrowDown")
    assert browser.ask("document.querySelector('#found [aria-selected=true]').id") == "option-0"
    browser.press("Enter")
    browser.wait("document.querySelector('#document h3').textContent === 'tales/<odd>'")
    assert browser.ask("document.querySelectorAll('main img').length") == 0
    browser.press("/")
    browser.type("no such thing")
    browser.wait("document.getElementById('answer').textContent.startsWith('0 documents')")
    browser.press("Escape")
    assert browser.problems == []


def test_a_document_that_was_not_trained_on_says_why(browser: Browser, project: Path) -> None:
    clusters = pq.read_table(project / "data/dedup/clusters.parquet")
    copy = clusters.filter(pc.invert(clusters["survivor"])).to_pylist()[0]
    visit(browser, project, f"#doc={copy['doc_id']}")
    said = browser.ask("document.getElementById('document').textContent")
    assert f"{copy['kind']} duplicate" in said and copy["cluster"] in said
    heldout = pq.read_table(project / "data/encode/heldout.documents.parquet")["doc_id"][0].as_py()
    browser.ask(f"location.hash = '#doc=' + encodeURIComponent({json.dumps(heldout)})")
    browser.wait("document.getElementById('document').textContent.includes('held out')")
    visit(browser, project, "#doc=50%")  # not a valid percent encoding either
    assert "knows no document 50%" in browser.ask("document.getElementById('document').textContent")
    assert browser.problems == []


def test_every_sample_can_be_opened_and_its_row_is_whole(browser: Browser, project: Path) -> None:
    """Each has its stations; blanks of a row are as many as its spans; the link leads to the step that read it."""
    visit(browser, project)
    samples = browser.ask("Store.samples()")
    assert {sample["kind"] for sample in samples} == {"gmask", "mask", "instruction"}
    ledger = Ledger(project)
    for sample in samples:
        browser.ask(f"location.hash = '#sample={sample['row']}'")
        browser.wait(f"document.documentElement.dataset.followed === '#sample={sample['row']}'")
        blanks = browser.ask("document.querySelectorAll('#sample .tokens > .blank').length")
        spans = browser.ask("document.querySelectorAll('#sample .span').length")
        assert blanks == spans > 0
        assert ledger.plan.rows(sample["step"])[sample["consumption"] - sample["step"] * 4] == sample["row"]
        titles = browser.ask("[...document.querySelectorAll('#sample h3')].map((node) => node.textContent)")
        assert titles[-1].endswith("The step") and any("row that the model reads" in title for title in titles)
    assert browser.problems == []


def test_stages_and_tree_are_drawn_and_can_be_chosen(browser: Browser, project: Path) -> None:
    visit(browser, project, "#stage=pack")
    assert "samples" in browser.ask("document.getElementById('stage').textContent")
    nodes = browser.ask("[...document.querySelectorAll('#tree .node')].map((node) => node.getAttribute('aria-label'))")
    assert nodes == ["step-000012 (kept)", "abandoned branch, steps 12 to 15 (abandoned)", "step-000024 (kept)"]
    browser.ask("document.querySelectorAll('#tree .node')[1].dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    browser.wait("document.querySelector('#checkpoint h3').textContent.startsWith('abandoned')")
    assert browser.problems == []


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (1400, True), (390, False), (390, True)])
def test_the_page_fits_and_has_something_to_show(
    width: int, dark: bool, browser: Browser, project: Path, tmp_path: Path
) -> None:
    """A picture of the whole page on wide and narrow windows, light and dark: as wide as the window, and not empty."""
    browser.look(width, 900, dark=dark)
    visit(browser, project)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    paper = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper.strip("rgb()").split(","))) < 200) is dark
    browser.picture(tmp_path / "page.png", whole=True)
    assert (tmp_path / "page.png").stat().st_size > 60_000
    browser.look(1400, 900)


def test_a_million_documents(browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Size of the page and time from opening the file to the first answer; answers are the ledger's."""
    make_crawl(tmp_path, LARGE)
    page, made = tmp_path / "explorer.html", time.monotonic()
    facts, ledger, columns = Facts(stage_io(tmp_path)), Ledger(tmp_path), Columns()
    documents = read_documents(facts, removals(facts), LARGE)
    pieces = Pieces.of(facts.pieces(["sample", "doc_index", "doc_offset", "length"]))
    content = {"model": {"name": "crawl", "version": "1"}} | told(ledger, documents, pieces, columns)
    columns.text("samples", "[]")
    columns.text("stages", "{}")
    page.write_text(render(content, columns, ("", "")), encoding="utf-8")
    made = time.monotonic() - made
    url = documents.table["url"][LARGE // 2].as_py()
    browser.problems.clear()
    browser.open(page, f"#find={url}", "document.documentElement?.dataset.answered")
    first = browser.ask("Number(document.documentElement.dataset.answered)")
    assert browser.ask("document.querySelectorAll('#found [role=option]').length") >= 1
    browser.wait("document.documentElement.dataset.done")
    timed = "(async () => { const t = performance.now(); await Store.search('%s'); return performance.now() - t; })()"
    later = {words: browser.ask(timed % words) for words in ("segment-00150", "fjord of the", "kelp-99999", "e")}
    for place in (0, 1, LARGE // 3, LARGE // 2):
        name = documents.table["doc_id"][place].as_py()
        assert sightings(browser, name) == ledger_says(ledger, name)
    assert browser.problems == []
    searches = ", ".join(f"{words!r} {took:.0f} ms" for words, took in later.items())
    with capsys.disabled():
        print(f"\n{documents.table.num_rows:,} documents, {len(pieces.sample):,} pieces: page of {page.stat().st_size:,} bytes")
        print(f"made in {made:.0f} s; first answer {first} ms after opening; searches: {searches}")
    assert first < 20_000 and max(later.values()) < 5_000
