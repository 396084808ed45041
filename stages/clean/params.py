"""Parameters of the stage."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from stages._params import NonNegative, OneOf, Positive
from stages.clean import language, privacy, rules

ANY = "all"


@dataclass(frozen=True)
class BoilerplateLimits:
    """What counts as boilerplate; see `boilerplate`.

    Attributes:
        min_documents: documents of one source that hold the line; refrains and stage directions recur less often.
        min_bytes: of the line in UTF-8: names of speakers are shorter, and "Exeunt", and 了 by itself.
    """

    min_documents: Positive
    min_bytes: Positive


@dataclass(frozen=True)
class Params:
    """Parameters of this stage.

    Attributes:
        unicode_form, max_blank_lines: see `normalise.normalise`.
        repair_mojibake: whether text decoded in a wrong encoding is repaired.
        boilerplate: lines that recur across documents; null keeps them.
        language: how the language is identified.
        mask: placeholders for personal data.
        samples: documents shown for each rule, language and outcome.
        rules_may_be_idle: the steps of `active` that may match nothing in the whole corpus; any other that does fails the
            build, because a filter that matches nothing is more often broken than needless. `all` names every step.
        en, zh: thresholds of the quality rules.
    """

    unicode_form: Annotated[str, OneOf("NFC", "NFKC")]
    max_blank_lines: NonNegative
    repair_mojibake: bool
    boilerplate: BoilerplateLimits | None
    language: language.Limits
    mask: privacy.Masks
    samples: NonNegative
    rules_may_be_idle: tuple[str, ...]
    en: rules.Limits
    zh: rules.Limits

    def __post_init__(self) -> None:
        known = {ANY, "repair", "boilerplate", "language", *map(mask_name, KINDS), *(rule.name for rule in rules.RULES)}
        unknown = sorted(set(self.rules_may_be_idle) - known)
        if unknown:
            raise ValueError(f"rules_may_be_idle: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")

    def limits(self, lang: str) -> rules.Limits:
        """The thresholds for `lang`."""
        return {"en": self.en, "zh": self.zh}[lang]

    def active(self) -> list[str]:
        """Names of the steps that are switched on, in the order in which they are taken."""
        names = ["repair"] if self.repair_mojibake else []
        names += ["boilerplate"] if self.boilerplate is not None else []
        names += ["language"]
        limits = (self.en, self.zh)
        names += [rule.name for rule in rules.RULES if any(getattr(each, rule.limit) is not None for each in limits)]
        return names + [mask_name(kind) for kind in KINDS if getattr(self.mask, kind) is not None]

    def idle(self, matched: set[str]) -> list[str]:
        """The active steps that matched nothing and are not said to be allowed that."""
        allowed = set(self.rules_may_be_idle)
        return [] if ANY in allowed else [name for name in self.active() if name not in matched | allowed]


KINDS = tuple(kind.name for kind in fields(privacy.Masks))


def mask_name(kind: str) -> str:
    """The name under which masking a kind of personal data is counted."""
    return f"mask_{kind}"
