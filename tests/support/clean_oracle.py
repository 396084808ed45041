"""The statistics of stages.clean in plain Python, by string methods and counters: slow, and plainly what the columns say."""

from __future__ import annotations

import re
from collections import Counter
from itertools import groupby

from stages._ngrams import is_unspaced
from stages.clean import characters, columns

_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def units(text: str) -> list[str]:
    found: list[str] = []
    for kind, group in groupby(text, lambda char: "single" if is_unspaced(char) else "word" if char.isalnum() else ""):
        if kind == "single":
            found += group
        elif kind == "word":
            found.append("".join(group))
    return found


def lower(text: str) -> str:
    return text.translate(_ASCII_LOWER)


def measure(text: str) -> dict[str, int]:
    counts: Counter[str] = Counter(characters.script(char) for char in text)
    paragraphs: list[list[str]] = [[]]
    for line in map(str.strip, text.split("\n")):
        if line:
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    paragraphs = [paragraph for paragraph in paragraphs if paragraph]
    lines = [line for paragraph in paragraphs for line in paragraph]
    words, sequence = text.split(), units(text)
    common = [char for char in text if "\u4e00" <= char <= "\u9fff"]
    counts["simplified"] = sum(_in(char, "gb2312") and not _in(char, "big5") for char in common)
    counts["traditional"] = sum(_in(char, "big5") and not _in(char, "gb2312") for char in common)
    counts["newlines"] = text.count("\n")
    counts["words"] = len(words)
    counts["word_characters"] = sum(map(len, words))
    counts["alphabetic_words"] = sum(any(map(str.isalpha, word)) for word in words)
    counts["units"] = len(sequence)
    counts["unit_characters"] = sum(map(len, sequence))
    counts["stop_words"] = len(set(columns.STOP_WORDS).intersection(map(lower, sequence)))
    counts["ellipses"] = len(re.findall(r"\.{3,}|…+", text))
    counts["curly_braces"] = text.count("{")
    counts["lorem_ipsum"] = lower(text).count("lorem ipsum")
    counts["lines"] = len(lines)
    counts["line_characters"] = sum(map(len, lines))
    counts["bullet_lines"] = sum(line[0] in characters.BULLETS for line in lines)
    counts["ellipsis_lines"] = sum(line.endswith(("...", "…")) for line in lines)
    counts["terminal_lines"] = sum(line[-1] in characters.TERMINALS for line in lines)
    counts["short_lines"] = sum(_width(line) <= columns.SHORT_LINE for line in lines)
    counts["few_word_lines"] = sum(len(units(line)) < columns.FEW_WORDS for line in lines)
    counts["javascript_lines"] = sum(any(phrase in lower(line) for phrase in columns.JAVASCRIPT) for line in lines)
    counts["policy_lines"] = sum(any(phrase in lower(line) for phrase in columns.POLICY) for line in lines)
    repeated = _repeats(lines)
    counts["duplicate_lines"] = len(repeated)
    counts["duplicate_line_characters"] = sum(map(len, repeated))
    counts["paragraphs"] = len(paragraphs)
    again = _repeats([tuple(paragraph) for paragraph in paragraphs])
    counts["duplicate_paragraphs"] = len(again)
    counts["duplicate_paragraph_characters"] = sum(len(line) for paragraph in again for line in paragraph)
    for n in columns.TOP:
        counts[f"top_{n}_gram_characters"] = top_ngram(sequence, n)
    for n in columns.DUPLICATE:
        counts[f"duplicate_{n}_gram_characters"] = duplicate_ngrams(sequence, n)
    return {name: counts[name] for name in columns.COLUMNS}


def top_ngram(sequence: list[str], n: int) -> int:
    found = Counter(tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1))
    best = max(found.values(), default=0)
    return max((sum(map(len, gram)) for gram, number in found.items() if number == best), default=0) * best if best > 1 else 0


def duplicate_ngrams(sequence: list[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    for i in range(len(sequence) - n + 1):
        gram = tuple(sequence[i : i + n])
        if gram in seen:
            covered.update(range(i, i + n))
        seen.add(gram)
    return sum(len(sequence[i]) for i in covered)


def _repeats(items: list) -> list:  # type: ignore[type-arg]
    seen, found = set(), []
    for item in items:
        if item in seen:
            found.append(item)
        seen.add(item)
    return found


def _width(line: str) -> int:
    return sum(2 if characters.script(char) == "han" else 1 for char in line)


def _in(char: str, encoding: str) -> bool:
    return bool(char.encode(encoding, "ignore"))
