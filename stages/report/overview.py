"""The head of the page and its end: the key numbers, and what the checkpoint cannot do, both computed from the sections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stages.report.evaluation import difference
from stages.report.facts import language


@dataclass(frozen=True)
class Tile:
    """One key number; `href` is the section that it comes from."""

    value: str
    label: str
    note: str
    href: str


def compact(value: int) -> str:
    """A count with three or four digits and a unit, as tiles show it."""
    if value >= 1e6:
        return f"{value / 1e6:,.2f} M"
    return f"{value / 1e3:,.1f} k" if value >= 1e4 else f"{value:,}"


def tiles(sections: dict[str, Any]) -> list[Tile]:
    """The key numbers, in reading order."""
    lineage, training, evaluation = (sections[name] for name in ("lineage", "training", "evaluation"))
    ratio = lineage["tokens"] / training["parameters"]
    positions = compact(int(training["last"]["tokens"]))
    languages = sections["corpus"]["languages"]
    found = [
        Tile(compact(training["parameters"]), "parameters", f"{lineage['steps']:,} optimizer steps", "training"),
        Tile(
            compact(lineage["tokens"]),
            "tokens seen",
            f"{ratio:.2g} per parameter; {positions} positions with masks and padding",
            "lineage",
        ),
        Tile(
            f"{lineage['documents']:,}",
            "documents seen",
            f"{lineage['exposures']:,} exposures, each one traceable",
            "lineage",
        ),
        Tile(str(len(languages)), "languages", " and ".join(map(language, languages)), "corpus"),
    ]
    for lang in evaluation["languages"]:
        bits = {model: evaluation["bits"][model]["language"][lang] for model in ("fp32", "bigram", "unigram")}
        note = f"bigram {bits['bigram']:.3f}, unigram {bits['unigram']:.3f}"
        found.append(Tile(f"{bits['fp32']:.3f}", f"bits per byte, {language(lang)}", note, "evaluation"))
    return [*found, *_export(evaluation), *_cloze_tile(evaluation)]


def _export(evaluation: dict[str, Any]) -> Iterator[Tile]:
    if "int4" in evaluation["sizes"]:
        size, whole = evaluation["sizes"]["int4"], evaluation["sizes"]["fp32"]
        costs = [
            f"{lang} {difference(evaluation['differences'], 'int4', 'fp32', lang)['value']:+.4f}"
            for lang in evaluation["languages"]
        ]
        note = f"{size / whole:.0%} of FP32; bits per byte {', '.join(costs)}"
        yield Tile(f"{size / 1e6:.2f} MB", "INT4 export", note, "evaluation")


def _cloze_tile(evaluation: dict[str, Any]) -> Iterator[Tile]:
    accuracy = {lang: row["value"] for lang, row in sorted(evaluation["cloze"]["fp32"].items())}
    if accuracy:
        note = f"{' and '.join(map(language, accuracy))}; chance {1 / evaluation['choices']:.0%}"
        yield Tile(" / ".join(f"{value:.0%}" for value in accuracy.values()), "last words found", note, "evaluation")


def limits(sections: dict[str, Any]) -> list[str]:
    """What has to be said of this checkpoint, as sentences; every number in them is computed."""
    lineage, training, evaluation = (sections[name] for name in ("lineage", "training", "evaluation"))
    register = sections["corpus"]["register"]
    licences = ", ".join(sorted({entry["licence"] for entry in register}))
    found = [
        f"It has {training['parameters']:,} parameters and was shown {lineage['tokens']:,} tokens of text, "
        f"{lineage['tokens'] / training['parameters']:.2g} for each. What it knows is bounded by both numbers.",
    ]
    for lang in evaluation["languages"]:
        found.append(_against_ngrams(evaluation["differences"], lang))
        if lang in evaluation["cloze"]["fp32"]:
            found.append(_cloze(evaluation["cloze"], lang, 1 / evaluation["choices"]))
    return [
        *found,
        f"Its text is {len(register)} sources under {licences}. Its views, and its picture of the world, are theirs. No stage "
        "removes prejudice or untruth, and nothing was tuned by human feedback.",
        "Held-out text comes from the same sources as the training text, so the scores say nothing about other text.",
        "Decontamination finds shared n-grams of characters or words. It does not find paraphrases or translations.",
        "The ledger proves which samples a run of this code consumes. That the weights came from that run is proved by running "
        "it again and comparing digests, which needs the same software and the same kind of processor.",
    ]


def _against_ngrams(differences: list[dict[str, Any]], lang: str) -> str:
    parts = []
    for reference in ("bigram", "unigram"):
        row = difference(differences, "fp32", reference, lang)
        if row["high"] < 0:
            parts.append(f"better than a {reference} by {-row['value']:.3f}")
        elif row["low"] > 0:
            parts.append(f"worse than a {reference} by {row['value']:.3f}")
        else:
            parts.append(f"not measurably different from a {reference} ({row['value']:+.3f})")
    return f"On held-out {language(lang)} it is {' and '.join(parts)} bits per byte."


def _cloze(cloze: dict[str, Any], lang: str, chance: float) -> str:
    row, bigram = cloze["fp32"][lang], cloze["bigram"][lang]
    low, high = row["low"], row["high"]
    relation = "above" if low > chance else "below" if high < chance else "not measurably different from"
    beaten = f" A bigram model finds {bigram['value']:.1%}." if bigram["low"] > high else ""
    return (
        f"In the {language(lang)} cloze it finds {row['value']:.1%} of {row['items']:,} last words (95 % interval {low:.1%} to "
        f"{high:.1%}), {relation} the {chance:.0%} of chance.{beaten}"
    )
