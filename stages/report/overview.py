"""The head of the page and its end: the key numbers, and what the checkpoint cannot do, both computed from the sections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stages.report.evaluation import LANGUAGES, difference


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
    shown = int(training["last"]["tokens"])
    ratio = lineage["tokens"] / training["parameters"]
    names = " and ".join(LANGUAGES.get(lang, lang) for lang in sections["corpus"]["languages"])
    found = [
        Tile(compact(training["parameters"]), "parameters", f"{lineage['steps']:,} optimizer steps", "training"),
        Tile(
            compact(lineage["tokens"]),
            "tokens seen",
            f"{ratio:.2g} per parameter; {compact(shown)} positions with masks and padding",
            "lineage",
        ),
        Tile(f"{lineage['documents']:,}", "documents seen", f"{lineage['exposures']:,} exposures, each one traceable", "lineage"),
        Tile(str(len(sections["corpus"]["languages"])), "languages", names, "corpus"),
    ]
    for lang in evaluation["languages"]:
        bits = {model: evaluation["bits"][model]["language"][lang] for model in ("fp32", "bigram", "unigram")}
        note = f"bigram {bits['bigram']:.3f}, unigram {bits['unigram']:.3f}"
        found.append(Tile(f"{bits['fp32']:.3f}", f"bits per byte, {LANGUAGES.get(lang, lang)}", note, "evaluation"))
    if "int4" in evaluation["sizes"]:
        size, whole = evaluation["sizes"]["int4"], evaluation["sizes"]["fp32"]
        cost = ", ".join(
            f"{lang} {difference(evaluation['differences'], 'int4', 'fp32', lang)['value']:+.4f}" for lang in evaluation["languages"]
        )
        found.append(Tile(f"{size / 1e6:.2f} MB", "INT4 export", f"{size / whole:.0%} of FP32; bits per byte {cost}", "evaluation"))
    accuracy = {lang: evaluation["cloze"]["fp32"][lang]["value"] for lang in sorted(evaluation["cloze"]["fp32"])}
    if accuracy:
        names = " and ".join(LANGUAGES.get(lang, lang) for lang in accuracy)
        chance = 1 / evaluation["choices"]
        found.append(
            Tile(" / ".join(f"{value:.0%}" for value in accuracy.values()), "last words found", f"{names}; chance {chance:.0%}", "evaluation")
        )
    return found


def limits(sections: dict[str, Any]) -> list[str]:
    """What has to be said of this checkpoint, as sentences; every number in them is computed."""
    lineage, training, evaluation = (sections[name] for name in ("lineage", "training", "evaluation"))
    ratio = lineage["tokens"] / training["parameters"]
    found = [
        f"It is small and was shown little: {training['parameters']:,} parameters, {lineage['tokens']:,} tokens of text, {ratio:.2g} per "
        "parameter. It shows that the workflow is whole and can be audited, not what the recipe can reach.",
    ]
    for lang in evaluation["languages"]:
        found.append(_against_ngrams(evaluation["differences"], lang))
        found.append(_cloze(evaluation["cloze"], lang, 1 / evaluation["choices"]))
    licences = ", ".join(sorted({entry["licence"] for entry in sections["corpus"]["register"]}))
    sources = len(sections["corpus"]["register"])
    found += [
        f"Its text is {sources} sources, most of them old literature, under {licences}. Its views, and its picture of the world, are "
        "theirs. No stage removes prejudice or untruth, and nothing was tuned by human feedback.",
        f"Held-out text comes from the same {sources} sources as the training text, so the scores say nothing about other text.",
        "Decontamination finds shared n-grams of characters or words. It does not find paraphrases or translations.",
        "The ledger proves which samples a run of this code consumes. That the weights came from that run is proved by running "
        "it again and comparing digests, which needs the same software and kind of processor.",
    ]
    return [sentence for sentence in found if sentence]


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
    return f"On held-out {LANGUAGES.get(lang, lang)} it is {' and '.join(parts)} bits per byte."


def _cloze(cloze: dict[str, Any], lang: str, chance: float) -> str:
    if lang not in cloze["fp32"]:
        return ""
    row, bigram = cloze["fp32"][lang], cloze["bigram"][lang]
    low, high = row["low"], row["high"]
    relation = "above" if low > chance else "below" if high < chance else "not measurably different from"
    beaten = f" A bigram model finds {bigram['value']:.1%}." if bigram["low"] > high else ""
    return (
        f"In the {LANGUAGES.get(lang, lang)} cloze it finds {row['value']:.1%} of {row['items']:,} last words (95 % interval {low:.1%} "
        f"to {high:.1%}), {relation} the {chance:.0%} of chance.{beaten}"
    )
