"""MediaWiki XML dumps (`pages-articles.xml`), read as a stream: one document per article."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import IO

from stages.corpus.records import Record
from stages.corpus.wikitext import DROPPED_PREFIXES, clean_wikitext

_ARTICLE = "0"
_DROPPED_NAMESPACES = ("-2", "6", "14")  # Media, File, Category


def read_mediawiki(stream: IO[bytes]) -> Iterator[Record]:
    """The articles of a dump; redirects and pages outside the article namespace are passed over.

    `raw` is the revision's wikitext, `date` the day of the revision, the fragment the page id.

    Raises:
        xml.etree.ElementTree.ParseError: the dump is not well-formed, for example cut off.
    """
    dropped = set(DROPPED_PREFIXES)
    root: ET.Element | None = None
    for event, element in ET.iterparse(stream, ("start", "end")):
        if event == "start":
            root = element if root is None else root
            continue
        tag = _local(element)
        if tag == "namespace" and element.get("key") in _DROPPED_NAMESPACES and element.text:
            dropped.add(element.text.lower())
        elif tag == "page":
            record = _page(element, frozenset(dropped))
            if record:
                yield record
            if root is not None:
                root.clear()  # pages already read would otherwise stay in memory


def _page(page: ET.Element, dropped: frozenset[str]) -> Record | None:
    fields = {_local(child): child for child in page}
    revision = {_local(child): child.text or "" for child in fields["revision"]} if "revision" in fields else {}
    if "redirect" in fields or _text(fields, "ns") not in ("", _ARTICLE):
        return None
    wikitext = revision.get("text", "")
    if wikitext.lstrip().lower().startswith(("#redirect", "#重定向")):  # dumps older than export format 0.4
        return None
    return Record(
        fragment=_text(fields, "id"),
        raw=wikitext.encode(),
        text=clean_wikitext(wikitext, dropped),
        title=_text(fields, "title") or None,
        date=revision.get("timestamp", "")[:10] or None,
    )


def _text(fields: dict[str, ET.Element], name: str) -> str:
    return (fields[name].text or "") if name in fields else ""


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]
