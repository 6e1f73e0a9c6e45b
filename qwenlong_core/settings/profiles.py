"""Load a profile: a TOML file, then values and ``a.b=c`` overrides, then validation into Settings.

Errors name the key, its value and the nearest right name, and are raised before anything runs.
"""

from __future__ import annotations

import difflib
import tomllib
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from qwenlong_core.errors import Refused
from qwenlong_core.settings.secrets import without_secrets
from qwenlong_core.settings.tree import Settings
from qwenlong_core.shipped import SHIPPED

PROFILES = SHIPPED / "infra" / "profiles"


class SettingsError(Refused):
    """A profile or an override that cannot be used; the message says what to change, and repeats no password."""

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(message))


def profile_names() -> list[str]:
    """Names of the profiles that ship with the project."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def load_settings(profile: str, overrides: Iterable[str] = (), *, values: Mapping[str, Any] | None = None) -> Settings:
    """Settings of a profile (a name in ``infra/profiles``, or a path to a TOML file).

    Args:
        overrides: ``"a.b=c"`` strings as a person types them. The value is read as TOML where it is TOML,
            else as text; ``none`` switches an optional setting off. List elements are addressed by index:
            ``grpo.phases.0.steps=3``.
        values: settings by dotted name, such as ``{"evaluation.temperature": 0.7}``, used as they are.
            They replace the profile's; ``overrides`` replace them.

    Raises:
        SettingsError: naming every wrong key or value.
    """
    path = Path(profile) if profile.endswith(".toml") else PROFILES / f"{profile}.toml"
    if not path.is_file():
        raise SettingsError(
            f"no profile {profile!r}: use one of {', '.join(profile_names())}, or a path to a .toml file"
        )
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors on Windows begin a file with a mark
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error
    for key, value in (values or {}).items():
        _put(tree, key, value)
    for item in overrides:
        _put(tree, *_parsed(item))
    try:
        return Settings.model_validate({"profile": path.stem} | tree)
    except ValidationError as error:
        raise SettingsError(explained(error)) from error


def explained(error: ValidationError) -> str:
    """What is wrong with the settings, one line per mistake. The value of an address, which may hold a key, is not
    repeated."""
    return "\n".join(_explain(detail) for detail in error.errors())


def _toml_value(text: str) -> Any:
    if text.strip() == "none":  # TOML has no null
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _parsed(item: str) -> tuple[str, Any]:
    key, separator, text = item.partition("=")
    if not separator or not key.strip():
        raise SettingsError(f"override {item!r}: expected key=value, for example grpo.group_size=8")
    return key.strip(), _toml_value(text)


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set ``a.b.0.c`` in the profile's tree."""
    *parents, last = key.split(".")
    node: Any = tree
    for part in parents:
        node = _child(node, part, key)
    if isinstance(node, list):
        _child(node, last, key)
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise SettingsError(f"override {key}: {'.'.join(parents)} is a value, not a table")


def _child(node: Any, part: str, key: str) -> Any:
    if isinstance(node, dict):
        # A table that the profile lacks is made here; if no such setting exists, the validation refuses it.
        return node.setdefault(part, {})
    if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
        return node[int(part)]
    size = f"indices 0 to {len(node) - 1}" if isinstance(node, list) else f"the value {node!r}"
    raise SettingsError(f"override {key}: {part!r} is not there; found {size}")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings blocks inside a field's annotation, such as those of ``tuple[Phase, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (tuple, list, Union, types.UnionType, Annotated):
        for part in get_args(annotation):
            yield from _models(part)


def _known_keys(location: Iterable[str | int]) -> list[str]:
    """Names of the settings at a place in the tree; a field of several block types has those of all."""
    return [name for block in _blocks_at(location) for name in block.model_fields]


def _blocks_at(location: Iterable[str | int]) -> list[type[BaseModel]]:
    blocks: list[type[BaseModel]] = [Settings]
    for part in location:
        if isinstance(part, str):
            fields = [block.model_fields[part] for block in blocks if part in block.model_fields]
            blocks = [model for field in fields for model in _models(field.annotation)]
    return blocks


def _nearest(given: str, location: Iterable[str | int]) -> list[str]:
    """What a mistyped name may mean: a setting at its place, or of the same name in tables right below."""
    places: dict[str, list[str]] = {}
    for block in _blocks_at(location):
        for field, info in block.model_fields.items():
            places[field] = [field]
            table = f"{field}.N" if get_origin(info.annotation) is tuple else field
            for leaf in (leaf for model in _models(info.annotation) for leaf in model.model_fields):
                places.setdefault(leaf, []).append(f"{table}.{leaf}")
    near = difflib.get_close_matches(given, places, n=1, cutoff=0.75)
    return places[near[0]] if near else []


def _explain(detail: ErrorDetails) -> str:
    *parents, last = detail["loc"] or ("",)
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        if near := _nearest(str(last), parents):
            return f"unknown setting {where}: did you mean {' or '.join(map(repr, near))}?"
        return f"unknown setting {where}: known here: {', '.join(sorted(_known_keys(parents)))}"
    message = detail["msg"].removeprefix("Value error, ")  # pydantic's prefix for our own ValueError
    if detail["type"] == "missing":
        return f"setting {where} is missing: give it in the profile, or as the override {where}=..."
    if detail["type"] == "value_error":
        # Our own checks name the value themselves, without a password that it may hold.
        return f"{where}: {message}" if where else message
    return f"setting {where}={detail['input']!r}: {message}"
