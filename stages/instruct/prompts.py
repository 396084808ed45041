"""Prompts in Jinja: our own wordings with one `[MASK]`, and PromptSource templates with `|||` and answer choices.

Templates come from outside and run in a sandbox: they see the row's fields, and nothing of this program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from stages._errors import StageError

TEMPLATES = Path(__file__).with_name("templates.yaml")
MASK = "[MASK]"
_PARTS = "|||"
_PROTECTED = "\ue0e0|\ue0e0|\ue0e0|\ue0e0"  # stands for `|||` in a row's own text while a template is rendered
_RANK = "_rank"  # the row's own draw, by which `choice` chooses


class Template:
    """One prompt in Jinja, cut at its `[MASK]` into prompt and target before anything is filled in."""

    def __init__(self, name: str, source: str) -> None:
        import jinja2

        before, mask, behind = source.partition(MASK)
        if not mask or MASK in behind:
            raise StageError(f"template {name} needs exactly one {MASK}", file=TEMPLATES.name)
        self.name = name
        try:
            self._prompt, self._target = environment().from_string(before), environment().from_string(behind)
        except jinja2.TemplateError as error:
            raise StageError(f"template {name}: {error}", file=TEMPLATES.name) from error

    def prompt(self, example: Mapping[str, str]) -> str:
        """The text before the mask."""
        return str(self._prompt.render(example))

    def target(self, example: Mapping[str, str]) -> str:
        """The text behind the mask."""
        return str(self._target.render(example))


class PromptSource:
    """One PromptSource template (Bach et al. 2022, arXiv 2202.01279): `prompt ||| target`, over a row's fields.

    `answer_choices` is itself a template; its parts are a list in the other. A template that gives no target for a row, or no
    prompt, has nothing to say about it.
    """

    def __init__(self, name: str, described: Mapping[str, Any]) -> None:
        self.name = name
        self._jinja = environment().from_string(str(described["jinja"]))
        choices = described.get("answer_choices")
        self._choices = environment().from_string(choices) if choices else None

    def render(self, row: Mapping[str, Any], rank: int) -> tuple[str, str] | None:
        """(prompt, target) of a row, or None; `rank` is the draw by which its `choice` filter chooses.

        Raises:
            jinja2.TemplateError, TypeError, LookupError, ...: whatever the template does wrong.
        """
        variables = {name: _protected(value) for name, value in row.items()} | {_RANK: rank}
        if self._choices is not None:
            choices = self._choices.render(variables).split(_PARTS)
            variables["answer_choices"] = [_restored(choice.strip()) for choice in choices]
        parts = [_restored(part.strip()) for part in self._jinja.render(variables).split(_PARTS)]
        return (parts[0], parts[1]) if len(parts) == 2 and all(parts) else None


@cache
def environment() -> Any:
    """Jinja without access to anything but the variables, and an error where one is missing."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    @jinja2.pass_context
    def choice(context: Any, values: Sequence[Any]) -> Any:
        return values[int(context[_RANK]) % len(values)]

    def most_frequent(values: Sequence[Any]) -> list[Any]:
        counts = {value: list(values).count(value) for value in values}
        return [value for value, count in counts.items() if count == max(counts.values())]

    made = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)
    made.filters |= {"choice": choice, "most_frequent": most_frequent}
    made.globals |= {"zip": zip, "enumerate": enumerate, "len": len}
    return made


def load_templates(file: Path = TEMPLATES) -> dict[tuple[str, str], list[Template]]:
    """Our wordings by (task, language), in the order of the file."""
    described = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {
        (task, lang): [Template(f"{task}.{lang}.{name}", source) for name, source in wordings.items()]
        for task, languages in described.items()
        for lang, wordings in languages.items()
    }


def load_promptsource(file: Path) -> list[PromptSource]:
    """The templates of a PromptSource `templates.yaml`, sorted by id.

    Raises:
        StageError: not such a file, or a template that is not Jinja.
    """
    import jinja2

    try:
        described = yaml.load(file.read_text(encoding="utf-8"), _Tagged)
        templates = described["templates"]
        entries = [(str(templates[key].get("name") or key), templates[key]) for key in sorted(templates)]
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, AttributeError, KeyError) as error:
        raise StageError(f"not a PromptSource template file: {error!r}", file=file) from error
    found = []
    for name, entry in entries:
        try:
            found.append(PromptSource(name, entry))
        except (jinja2.TemplateError, KeyError) as error:
            raise StageError(f"template {name!r}: {error}", file=file, remedy="correct it, or take it out") from error
    if not found:
        raise StageError("the file holds no template", file=file)
    return found


class _Tagged(yaml.SafeLoader):
    """Reads PromptSource's tagged mappings as plain ones, and no other tag."""


def _mapping(loader: Any, node: Any) -> Any:
    return loader.construct_mapping(node, deep=True)


for _tag in ("!Template", "!TemplateMetadata"):
    _Tagged.add_constructor(_tag, _mapping)


def _protected(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(_PARTS, _PROTECTED)
    if isinstance(value, dict):
        return {key: _protected(item) for key, item in value.items()}
    return [_protected(item) for item in value] if isinstance(value, list) else value


def _restored(text: str) -> str:
    return text.replace(_PROTECTED, _PARTS)
