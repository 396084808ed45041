"""Wikitext to plain text: prose, headings and list items stay; templates, tables, references and media go.

Constructs nest, so each is resolved from the inside out. Templates that carry words of the sentence they stand in are
expanded (`templates`); a formula cannot be, so the paragraph that it leaves a hole in goes with it.
"""

from __future__ import annotations

import html
import re

from stages.corpus.templates import expand_templates

DROPPED_PREFIXES = frozenset({"file", "image", "category", "media"})

_DROPPED_SECTIONS = frozenset(
    {"see also", "references", "external links", "further reading", "notes", "footnotes", "citations", "sources", "gallery"}
    | {"bibliography", "selected bibliography", "works cited", "cited works", "general references", "primary sources"}
    | {"notes and references", "references and notes", "notes and citations", "references and sources", "secondary sources"}
    | {"参见", "参看", "参考文献", "参考资料", "外部链接", "注释", "脚注", "延伸阅读", "相关条目"}
    | {"參見", "參看", "參考文獻", "參考資料", "外部連結", "註釋", "腳註", "延伸閱讀", "相關條目"}
)
_DEPTH = 20  # deepest nesting of links that is resolved
_HOLE = "\ue000"  # private-use mark: something that its sentence needs was removed here
_BREAK = "\ue001"  # private-use mark: a line break that the author asked for

_NOWIKI = re.compile(r"<nowiki\s*>(.*?)</nowiki\s*>|<nowiki\s*/>", re.DOTALL | re.IGNORECASE)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_REF_EMPTY = re.compile(r"<ref\b[^<>]*/>", re.IGNORECASE)
_REF = re.compile(r"<ref\b[^<>]*>(?:(?!<ref\b).)*?</ref\s*>", re.DOTALL | re.IGNORECASE)
_FORMULA = re.compile(r"<(math|chem|ce|hiero|score)\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_BLOCK = re.compile(
    r"<(gallery|timeline|imagemap|source|syntaxhighlight|pre|graph|references|section|templatestyles|mapframe)\b"
    r"(?:[^<>]*/>|[^<>]*>.*?</\1\s*>)",
    re.DOTALL | re.IGNORECASE,
)
_POEM = re.compile(r"<poem\b[^<>]*>(.*?)</poem\s*>", re.DOTALL | re.IGNORECASE)
_VARIANT = re.compile(r"-\{(?:[^{}|]*\|)?([^{}]*)\}-")
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:|mailto:|//)[^\s\[\]]*[ \t]*([^\[\]]*)\]", re.IGNORECASE)
_LINK = re.compile(r"\[\[((?:[^\[\]]|\[(?!\[)|\](?!\]))*)\]\]")
_INTERLANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*:.+")
_SUPERSCRIPT = re.compile(r"<sup\b[^<>]*>([^<>]*)</sup\s*>", re.IGNORECASE)
_BREAKING = re.compile(r"<\s*/?(?:br|p|div|li|ul|ol|center|blockquote|hr|dd|dt|dl)\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_EMPHASIS = re.compile(r"'{2,5}|__[A-Z]+__")
_RESIDUE = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}")
_HEADING = re.compile(r"(={1,6})\s*(.*?)\s*\1")
_RAISED = str.maketrans("0123456789+-−n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻ⁿ")


def clean_wikitext(text: str, dropped_prefixes: frozenset[str] = DROPPED_PREFIXES) -> str:
    """The readable text of one page: paragraphs and headings on lines of their own, list items behind "- ".

    Args:
        text: the page's wikitext.
        dropped_prefixes: lower-case link prefixes that name no text: files and categories in the wiki's own language.
    """
    text = _NOWIKI.sub(lambda match: _protect(match[1] or ""), text.replace("\r\n", "\n"))
    text = _REF.sub("", _REF_EMPTY.sub("", _COMMENT.sub("", text)))
    text = _BLOCK.sub("", _FORMULA.sub(_HOLE, text))
    text = _POEM.sub(lambda match: _BREAK + match[1].strip().replace("\n", _BREAK) + _BREAK, text)
    text = _drop_tables(expand_templates(text))
    text = _expand_links(_VARIANT.sub(_variant, text), dropped_prefixes)
    text = _SUPERSCRIPT.sub(lambda match: _raised(match[1]), text)
    text = _EMPHASIS.sub("", _TAG.sub("", _BREAKING.sub(_BREAK, text)))
    blocks = _drop_sections(_blocks(text))
    text = html.unescape(_RESIDUE.sub("", "\n".join(blocks).replace(_BREAK, "\n")))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(_space(line) for line in text.split("\n"))).strip()


def _protect(text: str) -> str:
    """Characters that wikitext would read as markup, as entities, which are resolved last."""
    return "".join(f"&#{ord(char)};" if char in "[]{}|'=*#:;<>_-" else char for char in text)


def _drop_tables(text: str) -> str:
    """Without `{| ... |}`, however nested; a table that never closes loses only the lines that look like one."""
    kept: list[str] = []
    inside: list[str] = []
    depth = 0
    for line in text.split("\n"):
        start = line.lstrip(" :*#")
        if start.startswith("{|"):
            depth += 1
        if depth == 0:
            kept.append(line)
            continue
        inside.append(line)
        if start.startswith("|}"):
            depth -= 1
            if depth == 0:
                kept.append(start.removeprefix("|}"))
                inside = []
    kept += ["" if line.lstrip(" :*#").startswith(("{|", "|", "!")) else line for line in inside]
    return "\n".join(kept)


def _variant(match: re.Match[str]) -> str:
    """-{zh-hans:x; zh-hant:y}-: the simplified form where the page gives several."""
    parts = [part.partition(":") for part in match[1].split(";")]
    forms = {key.strip().lower(): value.strip() for key, colon, value in parts if colon}
    return next((forms[key] for key in ("zh-hans", "zh-cn", "zh", *forms) if key in forms), match[1])


def _expand_links(text: str, dropped: frozenset[str]) -> str:
    text = _EXTERNAL.sub(lambda match: match[1], text)
    for _ in range(_DEPTH):
        text, found = _LINK.subn(lambda match: _link(match[1], dropped), text)
        if not found:
            break
    return text


def _link(body: str, dropped: frozenset[str]) -> str:
    target, *labels = body.split("|")
    target = target.strip()
    if ":" in target and target.partition(":")[0].strip().lower() in dropped:
        return ""
    if labels and labels[-1].strip():
        return labels[-1]
    return "" if _INTERLANGUAGE.fullmatch(target) else target.lstrip(":")


def _raised(text: str) -> str:
    """Digits and signs as superscripts (10⁶, km²); ordinals and words as they are (19th)."""
    raised = html.unescape(text).strip().translate(_RAISED)
    return raised if all(char in "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ" for char in raised) else text


def _blocks(text: str) -> list[str]:
    """Paragraphs, list items, headings and empty lines; lines of one paragraph are joined as a browser joins them."""
    blocks: list[str] = []
    open_paragraph = False
    for line in text.split("\n"):
        marks = re.match(r"[*#:; ]+", line)
        item = line[marks.end() :].strip() if marks else line.strip()
        plain = bool(item) and not marks and not _HEADING.fullmatch(item) and not item.startswith(("|", "!", "{|", "}}"))
        if plain and open_paragraph:
            wide = ord(blocks[-1][-1]) >= 0x2E80 and ord(item[0]) >= 0x2E80  # Chinese is joined without a blank
            blocks[-1] += item if wide else f" {item}"
        elif plain or _HEADING.fullmatch(item):
            blocks.append(item)
        elif marks and item:
            blocks.append(f"- {item}" if marks[0].rstrip()[-1:] in ("*", "#") else item)
        else:
            blocks.append("")
        open_paragraph = plain
    return [block for block in blocks if _HOLE not in block]


def _drop_sections(blocks: list[str]) -> list[str]:
    """Headings as plain lines; without the sections that hold no prose and without headings that nothing follows."""
    kept: list[tuple[int, str]] = []  # (level, text); level 0 is no heading
    dropping = 0
    for block in blocks:
        heading = _HEADING.fullmatch(block)
        level = len(heading[1]) if heading else 0
        if heading and not (dropping and level > dropping):
            dropping = level if heading[2].lower() in _DROPPED_SECTIONS else 0
        if not dropping:
            kept.append((level, heading[2] if heading else block))
    result: list[str] = []
    shallowest = 0  # level of the headings above which no text stood yet; 0: nothing follows at all
    for level, block in reversed(kept):
        if level == 0:
            result.append(block)
            shallowest = 7 if block.strip(_BREAK) else shallowest
        elif level < shallowest:
            result += ["", block, ""]
            shallowest = level
    return result[::-1]


def _space(line: str) -> str:
    """Blanks, and the punctuation that removed templates leave behind."""
    line = re.sub(r"[\s\u00a0\u2000-\u200b]+", " ", line)
    line = re.sub(r"([(（])\s*(?:[;,:；，：]\s*)*", r"\1", line)
    line = re.sub(r"(?:\s*[;,；，])*\s*([)）])", r"\1", line)
    line = re.sub(r"\s*(?:\(\)|（）)", "", line)
    line = re.sub(r"([;,])(?:\s*\1)+", r"\1", line)
    return re.sub(r" +([,.;:])(?=\s|$)", r"\1", line).strip()
