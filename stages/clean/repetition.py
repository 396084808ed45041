"""What a document repeats: lines, paragraphs and n-grams of units, found exactly.

Repeated n-grams are found without hashing n-grams: the first n-gram equal to that at place i follows from the first (n-1)-gram
equal to that at i and the unit behind it, and only places whose (n-1)-gram is repeated can have a repeated n-gram, so that
ordinary text is nearly done after n = 3.
"""

from __future__ import annotations

import numpy as np

from stages._jit import kernels
from stages.clean import columns, runs
from stages.clean.columns import AT, DUPLICATE, TOP
from stages.clean.runs import cleared, first_equal, inlined, slot_of, slots

_DUPLICATE_LINES, _DUPLICATE_LINE_CHARACTERS = (AT[f"duplicate_line{end}"] for end in ("s", "_characters"))
_DUPLICATE_PARAGRAPHS, _DUPLICATE_PARAGRAPH_CHARACTERS = (AT[f"duplicate_paragraph{end}"] for end in ("s", "_characters"))
_UNIT_CHARACTERS, _FIRST_TOP = AT["unit_characters"], AT[f"top_{TOP[0]}_gram_characters"]
_FIRST_DUPLICATE = AT[f"duplicate_{DUPLICATE[0]}_gram_characters"]
MAX_N = DUPLICATE[-1]
_SORTED_OUT = 3  # up to this n, most places go unseen; of longer n-grams, most that are left do recur
WORK_ROWS = 6  # arrays of the length of the longest document that the functions here work in

_jit = kernels(__file__, columns.__file__, runs.__file__)


@inlined
def _pair(left, right):  # type: ignore[no-untyped-def]
    return np.int64(left) << 32 | np.int64(right)


@_jit
def repeated_lines(buffer, lines, number, paragraph, table, work, row):  # type: ignore[no-untyped-def]
    """Duplicate lines, and duplicate paragraphs: equal paragraphs end at the same node of the tree of their lines."""
    first, node_line, node_parent, ends = work[0], work[1], work[2], work[3]
    first_equal(buffer, lines, number, table, first, ends)
    for i in range(number):
        if first[i] != i:
            row[_DUPLICATE_LINES] += 1
            row[_DUPLICATE_LINE_CHARACTERS] += lines.lengths[i]
    if row[_DUPLICATE_LINES] == 0:
        return  # nor is a paragraph repeated
    mask = cleared(table, number)
    nodes, node, length = 0, number, np.int64(0)
    for i in range(number):
        slot = slot_of(_pair(node, first[i]), mask)
        while table[slot] >= 0 and (node_parent[table[slot]] != node or node_line[table[slot]] != first[i]):
            slot = (slot + 1) & mask
        if table[slot] < 0:
            table[slot], node_parent[nodes], node_line[nodes], ends[nodes] = nodes, node, first[i], 0
            nodes += 1
        node = table[slot]
        length += lines.lengths[i]
        if i + 1 == number or paragraph[i + 1] != paragraph[i]:
            row[_DUPLICATE_PARAGRAPHS] += ends[node]
            row[_DUPLICATE_PARAGRAPH_CHARACTERS] += ends[node] * length
            ends[node], node, length = 1, number, np.int64(0)


@_jit
def repeated_ngrams(buffer, units, number, table, work, prefix, row):  # type: ignore[no-untyped-def]
    """Characters of the top and the duplicate n-grams; see the module for how equality is carried from n-1 to n."""
    unit, first, other, uses, other_uses, places = work[0], work[1], work[2], work[3], work[4], work[5]
    first_equal(buffer, units, number, table, unit, uses)
    prefix[0] = 0
    candidates = 0
    for i in range(number):
        prefix[i + 1] = prefix[i] + units.lengths[i]
        first[i] = unit[i]
        places[candidates] = i
        candidates += uses[unit[i]] > 1
    row[_UNIT_CHARACTERS] = prefix[number]
    for n in range(2, MAX_N + 1):
        candidates = _extend(places, candidates, n, unit, first, other, other_uses, table)
        first, other, uses, other_uses = other, first, other_uses, uses
        if candidates == 0:
            return
        if n <= TOP[-1]:
            row[_FIRST_TOP + n - TOP[0]] = _top(places, candidates, n, first, uses, prefix)
        else:
            row[_FIRST_DUPLICATE + n - DUPLICATE[0]] = _covered(places, candidates, n, first, prefix)


@inlined
def _top(places, candidates, n, first, uses, prefix):  # type: ignore[no-untyped-def]
    """Characters of the most frequent n-gram, the longest of several, times its number."""
    best, top = 1, 0
    for index in range(candidates):
        i = places[index]
        if first[i] == i and uses[i] >= best:
            size = uses[i] * (prefix[i + n] - prefix[i])
            if uses[i] > best or size > top:
                best, top = uses[i], size
    return top


@inlined
def _covered(places, candidates, n, first, prefix):  # type: ignore[no-untyped-def]
    """Characters of the units in n-grams that stood earlier, each unit counted once."""
    covered, reached = 0, 0
    for index in range(candidates):
        i = places[index]
        if first[i] != i:
            covered += prefix[i + n] - prefix[max(i, reached)]
            reached = i + n
    return covered


@inlined
def _extend(places, candidates, n, unit, first, other, uses, table):  # type: ignore[no-untyped-def]
    """From (n-1)-grams to n-grams: keeps of the places, where an (n-1)-gram is repeated, those where an n-gram is.

    Args:
        places: filled up to `candidates`, ascending; kept ones move to its beginning.
        unit: the first unit equal to that at each place.
        first: the same of (n-1)-grams, at the places.
        other: filled with the same of n-grams.
        uses: filled with the number of equal n-grams, at the first of them.

    Returns:
        The number of places kept.
    """
    found = 0
    for index in range(candidates - 1):
        i = places[index]
        places[found] = i
        found += places[index + 1] == i + 1  # else the (n-1)-gram that starts a unit later is not repeated
    if n <= _SORTED_OUT:
        found = _not_alone(places, found, n, unit, first, table)
    mask = cleared(table, found)
    for index in range(found):
        i = places[index]
        left, right = first[i], unit[i + n - 1]
        slot = slot_of(_pair(left, right), mask)
        j = table[slot]
        while j >= 0 and (first[j] != left or unit[j + n - 1] != right):
            slot = (slot + 1) & mask
            j = table[slot]
        if j < 0:
            table[slot] = j = i
            uses[i] = 0
        other[i] = j
        uses[j] += 1
    kept = 0
    for index in range(found):
        i = places[index]
        places[kept] = i
        kept += uses[other[i]] > 1
    return kept


@inlined
def _not_alone(places, candidates, n, unit, first, table):  # type: ignore[no-untyped-def]
    """Keep the places that share a slot with another, as equal n-grams do: most of the others go, without a branch."""
    mask = slots(4 * candidates) - 1
    table[: mask + 1] = 0
    for index in range(candidates):
        i = places[index]
        table[slot_of(_pair(first[i], unit[i + n - 1]), mask)] += 1
    kept = 0
    for index in range(candidates):
        i = places[index]
        places[kept] = i
        kept += table[slot_of(_pair(first[i], unit[i + n - 1]), mask)] > 1
    return kept
