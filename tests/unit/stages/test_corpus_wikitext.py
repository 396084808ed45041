from __future__ import annotations

import bz2
import io
from xml.etree.ElementTree import ParseError

import pytest

from stages.corpus.mediawiki import read_mediawiki
from stages.corpus.wikitext import clean_wikitext


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("'''Bold''' and ''italic'' and '''''both'''''.", "Bold and italic and both."),
        ("A [[link]], a [[target|label]], [[:Category:Kept|kept]].", "A link, a label, kept."),
        ("See [https://example.org/x?y=1 the page] or [https://example.org].", "See the page or."),
        ("Text.[[Category:Things]][[fr:Chose]]", "Text."),
        ("[[File:a.jpg|thumb|A [[small]] one [https://e.org x]|alt=y]]Text.", "Text."),
        ('One<ref>{{cite|title=A}} [[x]]</ref> two<ref name="a/b" /> three<ref name=c>d</ref>.', "One two three."),
        ("Before<!-- a\n\ncomment --> after.", "Before after."),
        ("{{Infobox|a={{nested|b={{deep}}}}|c=[[d|e]]}}\nText.", "Text."),
        ("Height {{convert|1500|ft|m|0}} or {{convert|5|to|10|km|mi|abbr=on}}.", "Height 1,500 ft or 5 to 10 km."),
        ("Area {{convert|12|km2}}, heat {{convert|7|C-change}}.", "Area 12 km², heat 7 °C."),
        ("From {{lang|fr|''mot''}} and {{lang-el|λόγος}}.", "From mot and λόγος."),
        ("Name ({{IPAc-en|n}}; born {{circa|1500}}; {{dead}}) was.", "Name (born c. 1500) was."),
        ("Nothing ({{IPA|x}}) here.", "Nothing here."),
        ("&ndash; &amp;amp; 5&nbsp;km &lt;10", "– &amp; 5 km <10"),
        ("<nowiki>[[not a link]] ''quoted''</nowiki>", "[[not a link]] ''quoted''"),
        ("10<sup>6</sup>, km<sup>2</sup>, 19<sup>th</sup>, H<sub>2</sub>O", "10⁶, km², 19th, H2O"),
        ("one<br />two", "one\ntwo"),
        ("__NOTOC__Text {{{parameter|x}}}.", "Text."),
        ("Wrapped\nline.\n\nNext.", "Wrapped line.\n\nNext."),
        ("折行\n文字。", "折行文字。"),
        ("* a\n** b\n# c\n: d\n; e", "- a\n- b\n- c\nd\ne"),
        ("<poem>\nfirst\nsecond\n</poem>", "first\nsecond"),
        ("-{zh-hans:计算机; zh-hant:電腦}-", "计算机"),
        ("Unclosed {{template and [[link", "Unclosed template and link"),
        ("", ""),
    ],
)
def test_constructs(wikitext: str, expected: str) -> None:
    assert clean_wikitext(wikitext) == expected


def test_tables_go_however_nested() -> None:
    table = '{| class="a"\n|-\n| x || y\n{| class="inner"\n| z\n|}\n| w\n|}'
    assert clean_wikitext(f"Before.\n{table}\nAfter.") == "Before.\n\nAfter."


def test_table_that_never_closes_costs_only_its_own_lines() -> None:
    assert clean_wikitext("Before.\n{| class=a\n! head\n| cell\nAfter.") == "Before.\n\nAfter."


def test_formula_takes_its_paragraph_and_no_more() -> None:
    assert clean_wikitext("Kept.\n\nLet <math>x</math> be\na number.\n\nKept too.") == "Kept.\n\nKept too."


def test_sections_without_prose_are_left_out() -> None:
    page = (
        "Lead.\n== History ==\nText.\n=== Empty ===\n=== Also empty ===\n== References ==\n{{reflist}}\n=== Books ===\n* b\n"
        "== Later ==\n=== Deep ===\nMore.\n== External links ==\n* [http://e.org e]\n"
    )
    assert clean_wikitext(page) == "Lead.\n\nHistory\n\nText.\n\nLater\n\nDeep\n\nMore."


def test_file_links_in_the_wikis_own_language() -> None:
    page = "[[文件:a.jpg|缩略图|说明]]正文[[分类:事物]]。"
    assert clean_wikitext(page, frozenset({"文件", "分类"})) == "正文。"


def test_deep_nesting_ends() -> None:
    assert clean_wikitext("{{a|" * 500 + "x" + "}}" * 500 + " text").endswith("text")


PAGE = """<page><title>{title}</title><ns>{ns}</ns><id>{id}</id>{redirect}<revision><id>9</id>
<timestamp>2016-04-30T12:00:00Z</timestamp><text xml:space="preserve">{text}</text></revision></page>"""


def dump(*pages: dict[str, str], base: str = "") -> bytes:
    body = "".join(PAGE.format(**{"ns": "0", "redirect": "", **page}) for page in pages)
    names = '<namespace key="6">Datei</namespace><namespace key="0" />'
    head = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/"><siteinfo>'
    head += f"<sitename>Wiki</sitename><base>{base}</base><namespaces>" if base else "<namespaces>"
    return f"{head}{names}</namespaces></siteinfo>{body}</mediawiki>".encode()


def test_dump_gives_articles_only() -> None:
    data = dump(
        {"title": "Eins", "id": "1", "text": "[[Datei:x.jpg|klein]]'''Eins''' &amp; &lt;!-- x --&gt;zwei."},
        {"title": "Old", "id": "2", "text": "#REDIRECT [[Eins]]", "redirect": '<redirect title="Eins" />'},
        {"title": "Older", "id": "3", "text": "#redirect [[Eins]]"},
        {"title": "Talk:Eins", "id": "4", "ns": "1", "text": "chat"},
        {"title": "Leer", "id": "5", "text": ""},
    )
    records = list(read_mediawiki(bz2.BZ2File(io.BytesIO(bz2.compress(data)))))
    assert [(record.fragment, record.title, record.text) for record in records] == [
        ("1", "Eins", "Eins & zwei."),
        ("5", "Leer", ""),
    ]
    assert records[0].date == "2016-04-30"
    assert records[0].raw == b"[[Datei:x.jpg|klein]]'''Eins''' & <!-- x -->zwei."


@pytest.mark.parametrize(
    ("base", "title", "expected"),
    [
        ("https://en.wikipedia.org/wiki/Main_Page", "Albedo", "https://en.wikipedia.org/wiki/Albedo"),
        ("https://en.wikipedia.org/wiki/Main_Page", "AC/DC (band)", "https://en.wikipedia.org/wiki/AC/DC_(band)"),
        (
            "https://en.wikipedia.org/wiki/Main_Page",
            "C++? 100% &amp; A's",
            "https://en.wikipedia.org/wiki/C%2B%2B%3F_100%25_%26_A%27s",
        ),
        (
            "https://zh.wikipedia.org/wiki/Wikipedia:%E9%A6%96%E9%A1%B5",
            "数学",
            "https://zh.wikipedia.org/wiki/%E6%95%B0%E5%AD%A6",
        ),
        ("http://w.example.org/index.php?title=Main_Page", "A: b~c_d", "http://w.example.org/index.php?title=A:_b~c_d"),
        ("main page", "A", None),
        ("", "A", None),
    ],
)
def test_pages_have_the_address_that_their_wiki_gives_them(base: str, title: str, expected: str | None) -> None:
    data = dump({"title": title, "id": "1", "text": "Text with a <base>x</base>.".replace("<", "&lt;")}, base=base)
    [record] = read_mediawiki(io.BytesIO(data))
    assert record.url == expected


def test_dump_that_is_cut_off_raises() -> None:
    data = dump({"title": "Eins", "id": "1", "text": "Text."})
    with pytest.raises(ParseError):
        list(read_mediawiki(io.BytesIO(data[:-30])))
