"""What a document repeats: lines, paragraphs and n-grams of units, found exactly.

Repeated n-grams are found without hashing n-grams: the first n-gram equal to that at place i follows from the first (n-1)-gram
equal to that at i and the unit behind it, and only places whose (n-1)-gram is repeated can have a repeated n-gram, so that
ordinary text is nearly done after n = 3.
"""

from __future__ import annotations

import numpy as np

from stages._jit import kernels
from stages.clean.columns import AT, DUPLICATE, TOP

_DUPLICATE_LINES, _DUPLICATE_LINE_CHARACTERS = (AT[f"duplicate_line{end}"] for end in ("s", "_characters"))
_DUPLICATE_PARAGRAPHS, _DUPLICATE_PARAGRAPH_CHARACTERS = (AT[f"duplicate_paragraph{end}"] for end in ("s", "_characters"))
_UNIT_CHARACTERS, _FIRST_TOP = AT["unit_characters"], AT[f"top_{TOP[0]}_gram_characters"]
_FIRST_DUPLICATE = AT[f"duplicate_{DUPLICATE[0]}_gram_characters"]
MAX_N = DUPLICATE[-1]
WORK_ROWS = 6  # arrays of the length of the longest document that the functions here work in
HASH, START, BYTES, LENGTH = range(4)  # columns of a table of runs: the units, or the lines, of a document

_jit = kernels(__file__)


@_jit
def _cleared(table, entries):  # type: ignore[no-untyped-def]
    """Empty as much of the open-addressing table as `entries` need; the mask of that part."""
    slots = 16
    while slots < 2 * entries:
        slots *= 2
    table[:slots] = -1
    return slots - 1


@_jit
def _firsts(buffer, runs, number, table, first):  # type: ignore[no-untyped-def]
    """first[i]: the earliest run with the same bytes as run i."""
    mask = _cleared(table, number)
    for i in range(number):
        key = runs[i, HASH]
        slot = (key ^ (key >> 32)) & mask
        while True:
            j = table[slot]
            if j < 0:
                table[slot] = first[i] = i
                break
            if runs[j, HASH] == key and runs[j, BYTES] == runs[i, BYTES]:
                a, b, left = runs[j, START], runs[i, START], runs[i, BYTES]
                while left and buffer[a] == buffer[b]:
                    a, b, left = a + 1, b + 1, left - 1
                if not left:
                    first[i] = j
                    break
            slot = (slot + 1) & mask


@_jit
def _pair_slot(left, right, mask):  # type: ignore[no-untyped-def]
    key = (np.int64(left) << 32 | np.int64(right)) * np.int64(-7046029254386353131)
    return (key ^ (key >> 32)) & mask


@_jit
def repeated_lines(buffer, lines, number, paragraph, table, work, row):  # type: ignore[no-untyped-def]
    """Duplicate lines, and duplicate paragraphs: equal paragraphs end at the same node of the tree of their lines."""
    first, node_line, node_parent, ends = work[0], work[1], work[2], work[3]
    _firsts(buffer, lines, number, table, first)
    for i in range(number):
        if first[i] != i:
            row[_DUPLICATE_LINES] += 1
            row[_DUPLICATE_LINE_CHARACTERS] += lines[i, LENGTH]
    if row[_DUPLICATE_LINES] == 0:
        return  # nor is a paragraph repeated
    mask = _cleared(table, number)
    nodes, node, length = 0, number, np.int64(0)
    for i in range(number):
        slot = _pair_slot(node, first[i], mask)
        while table[slot] >= 0 and (node_parent[table[slot]] != node or node_line[table[slot]] != first[i]):
            slot = (slot + 1) & mask
        if table[slot] < 0:
            table[slot], node_parent[nodes], node_line[nodes], ends[nodes] = nodes, node, first[i], 0
            nodes += 1
        node = table[slot]
        length += lines[i, LENGTH]
        if i + 1 == number or paragraph[i + 1] != paragraph[i]:
            row[_DUPLICATE_PARAGRAPHS] += ends[node]
            row[_DUPLICATE_PARAGRAPH_CHARACTERS] += ends[node] * length
            ends[node], node, length = 1, number, np.int64(0)


@_jit
def repeated_ngrams(buffer, units, number, table, work, prefix, row):  # type: ignore[no-untyped-def]
    """Characters of the top and the duplicate n-grams; see the module for how equality is carried from n-1 to n."""
    unit, first, other, uses, other_uses, places = work[0], work[1], work[2], work[3], work[4], work[5]
    _firsts(buffer, units, number, table, unit)
    prefix[0] = 0
    for i in range(number):
        prefix[i + 1] = prefix[i] + units[i, LENGTH]
        uses[i] = 0
        first[i] = unit[i]
    row[_UNIT_CHARACTERS] = prefix[number]
    candidates = 0
    for i in range(number):
        uses[first[i]] += 1
    for i in range(number):
        if uses[first[i]] > 1:
            places[candidates] = i
            candidates += 1
    for n in range(2, MAX_N + 1):
        found = 0  # places whose (n-1)-gram is repeated, as is the one that starts a unit later
        for index in range(candidates):
            i = places[index]
            if index + 1 < candidates and places[index + 1] == i + 1:
                places[found] = i
                found += 1
        candidates = _extend(places, found, n, number, unit, first, uses, other, other_uses, table)
        first, other, uses, other_uses = other, first, other_uses, uses
        if candidates == 0:
            return
        if n <= TOP[-1]:
            row[_FIRST_TOP + n - TOP[0]] = _top(places, candidates, n, first, uses, prefix)
        else:
            row[_FIRST_DUPLICATE + n - DUPLICATE[0]] = _covered(places, candidates, n, first, prefix)


@_jit
def _top(places, candidates, n, first, uses, prefix):  # type: ignore[no-untyped-def]
    """Characters of the most frequent n-gram, the longest of several, times its number."""
    best, top = 1, 0
    for index in range(candidates):
        i = places[index]
        if first[i] == i:
            size = uses[i] * (prefix[i + n] - prefix[i])
            if uses[i] > best or (uses[i] == best and size > top):
                best, top = uses[i], size
    return top


@_jit
def _covered(places, candidates, n, first, prefix):  # type: ignore[no-untyped-def]
    """Characters of the units in n-grams that stood earlier, each unit counted once."""
    covered, reached = 0, 0
    for index in range(candidates):
        i = places[index]
        if first[i] != i:
            covered += prefix[i + n] - prefix[max(i, reached)]
            reached = i + n
    return covered


@_jit
def _extend(places, found, n, number, unit, first, uses, other, other_uses, table):  # type: ignore[no-untyped-def]
    """From (n-1)-grams to n-grams at the first `found` of `places`; keeps those that are repeated and returns their number."""
    mask = _cleared(table, found)
    for index in range(found):
        i = places[index]
        left, right = first[i], unit[i + n - 1]
        slot = _pair_slot(left, right, mask)
        while table[slot] >= 0 and (first[table[slot]] != left or unit[table[slot] + n - 1] != right):
            slot = (slot + 1) & mask
        if table[slot] < 0:
            table[slot] = i
            other_uses[i] = 0
        other[i] = table[slot]
        other_uses[table[slot]] += 1
    kept = 0
    for index in range(found):
        i = places[index]
        if other_uses[other[i]] > 1:
            places[kept] = i
            kept += 1
    return kept
