"""Write ``docs/settings.md`` from the settings themselves: their types, bounds, defaults and docstrings.

Run it after a change to ``qwenlong_core/settings/``::

    python infra/settings_page.py

``tests/settings/test_settings_page.py`` holds that the page is current.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_origin

from qwenlong_core.settings.base import Block
from qwenlong_core.settings.limits import bounds
from qwenlong_core.settings.tree import Settings

PAGE = Path(__file__).resolve().parents[1] / "docs/settings.md"
HEAD = """# Settings

Every setting: its type and bounds, its default, and what it does. Give one as `--set grpo.batch_size=8`, or in a
profile:

```toml
[grpo]
batch_size = 8
```

A profile (`infra/profiles/`, or the path of your own) replaces defaults, `--set` replaces the profile's values. Unknown
names and values out of bounds are refused. "Unset", in the texts `None`, means that there is no value: a profile leaves
the setting out, `--set` gives `none`. `N` in a name is a place in a list, from 0: `--set grpo.phases.0.steps=3`.

`infra/settings_page.py` makes this page from `qwenlong_core/settings/`: edit the docstrings there.
"""
_TABLE = "| setting | type | default | what it does |\n| --- | --- | --- | --- |"
_ROLE = re.compile(r":\w+:`~?\.?([^`]+)`")
_WORDS = {"string": "text", "boolean": "`true`, `false`", "object": "table", "null": "unset"}
_LARGE = 2**53
"""Bounds from here on are those of a machine's numbers and say nothing."""


def page() -> str:
    """The whole page."""
    sections = [HEAD.rstrip()]
    first: dict[type[Block], str] = {}
    for name, block in blocks("", Settings):
        heading = f"## `{name}`" if name else "## At the top"
        if block in first:
            sections.append(f"{heading}\n\nAs `{first[block]}`.")
        elif rows := [f"| {' | '.join(row)} |" for row in _rows(name, block)]:
            about = _text(inspect.getdoc(block) or "")
            sections.append("\n".join([heading, "", about, "", _TABLE, *rows]))
        first.setdefault(block, name)
    return "\n\n".join(sections) + "\n"


def blocks(name: str, block: type[Block]) -> Iterator[tuple[str, type[Block]]]:
    """A block and those below it, each with the name that its settings begin with."""
    yield name, block
    for field, info in block.model_fields.items():
        for below, place in _blocks_in(info.annotation):
            yield from blocks(f"{name}.{field}{place}".lstrip("."), below)


def _blocks_in(annotation: Any, place: str = "") -> Iterator[tuple[type[Block], str]]:
    if isinstance(annotation, type) and issubclass(annotation, Block):
        yield annotation, place
    for part in get_args(annotation):
        yield from _blocks_in(part, place + (".N" if get_origin(annotation) is tuple else ""))


def _rows(name: str, block: type[Block]) -> Iterator[tuple[str, str, str, str]]:
    schema, said = block.model_json_schema(), docstrings(block)
    for field, info in block.model_fields.items():
        if any(_blocks_in(info.annotation)) and field not in said:
            continue  # a section of its own says it all
        kind = "; ".join(dict.fromkeys(_types(field, schema["properties"][field], schema.get("$defs", {}))))
        default = "required" if info.is_required() else _value(info.get_default(call_default_factory=True))
        yield f"`{name}.{field}`".replace("`.", "`"), kind, default, _in_a_table(said.get(field, ""))


def docstrings(block: type[Block]) -> dict[str, str]:
    """The docstring below each field, with those of the blocks that a block extends."""
    found: dict[str, str] = {}
    for kind in reversed(block.__mro__):
        if not issubclass(kind, Block) or kind is Block:
            continue
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(definition, ast.ClassDef)
        for field, after in pairwise(definition.body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
                found[field.target.id] = inspect.cleandoc(ast.literal_eval(after.value))
    return found


def _types(field: str, schema: dict[str, Any], defs: dict[str, Any]) -> Iterator[str]:
    """A field's type in words; of several types each."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].rpartition("/")[2]]
    for part in schema.get("anyOf", ()):
        yield from _types(field, part, defs)
    kind = schema.get("type")
    if "enum" in schema or "const" in schema:
        yield ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    elif kind in ("integer", "number"):
        yield f"{'whole number' if kind == 'integer' else 'number'}{_bounds(field, schema)}"
    elif kind == "array":
        yield f"list of {', '.join(_types(field, schema.get('items', {}), defs)) or 'values'}"
    elif kind is not None:
        yield _WORDS[kind]


def _bounds(field: str, schema: dict[str, Any]) -> str:
    """What the field states and what its name has, whichever is narrower."""
    least, greatest = bounds(field)
    low = max((least, 0), (schema.get("minimum", -math.inf), 0), (schema.get("exclusiveMinimum", -math.inf), 1))
    high = min((greatest, 1), (schema.get("maximum", math.inf), 1), (schema.get("exclusiveMaximum", math.inf), 0))
    words = [("from", "over")[low[1]], f"{low[0]:,}"] if low[0] > -_LARGE else []
    words += [("under", "to")[high[1]], f"{high[0]:,}"] if high[0] < _LARGE else []
    return " ".join(["", *words]).replace(".0 ", " ").removesuffix(".0")


def _value(value: Any) -> str:
    if value is None:
        return "unset"
    text = json.dumps(value, default=lambda block: block.model_dump(mode="json", exclude_unset=True))
    return f"`{text}`"


def _text(docstring: str) -> str:
    """A docstring as markdown."""
    return _ROLE.sub(r"`\1`", docstring).replace("``", "`")


def _in_a_table(docstring: str) -> str:
    return " ".join(_text(docstring).split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
