"""Every number in the settings has an upper bound, so that a slip of the hand is refused at the door."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic.fields import FieldInfo

from qwenlong_core.settings.base import Block
from qwenlong_core.settings.limits import bounds
from qwenlong_core.settings.profiles import SettingsError, load_settings, profile_names
from qwenlong_core.settings.tree import Settings


def parts(annotation: Any) -> Iterator[Any]:
    """All types inside an annotation, and what is said of them."""
    if get_origin(annotation) is Annotated:
        inner, *said = get_args(annotation)
        yield from parts(inner)
        yield from said
    elif arguments := get_args(annotation):
        for argument in arguments:
            yield from parts(argument)
    else:
        yield annotation


def numbers(block: type[Block], path: str = "") -> Iterator[tuple[str, FieldInfo, list[Any]]]:
    for name, field in block.model_fields.items():
        found = [*parts(field.annotation), *field.metadata]
        for kind in found:
            if isinstance(kind, type) and issubclass(kind, Block):
                yield from numbers(kind, f"{path}{name}.")
        if int in found or float in found:
            yield f"{path}{name}", field, found


def stated(found: list[Any]) -> bool:
    """Whether the field itself has an upper bound."""
    inner = [mark for one in found for mark in (one.metadata if isinstance(one, FieldInfo) else [one])]
    return any(hasattr(mark, "le") or hasattr(mark, "lt") for mark in inner)


def test_every_number_has_an_upper_bound() -> None:
    paths = list(numbers(Settings))
    assert len(paths) > 70
    open_ended = [path for path, _, found in paths if not stated(found) and bounds(path.split(".")[-1])[1] == math.inf]
    assert not open_ended


@pytest.mark.parametrize(
    "override",
    [
        "launch.cpu_threads=100000",
        "grpo.group_size=1000000000000000000",
        "evaluation.max_prompt_tokens=1000000000000",
        "execution.retries=1000000000",
        "execution.retry_delay_seconds=1e300",
        "sft.epochs=1e308",
        "sft.epochs=1e-300",
        "grpo.phases.0.steps=1000000000000",
        "launch.timeout_minutes=1000000",
        "sft.learning_rate=1e30",
        "promotion.margin=-7",
    ],
)
def test_a_number_beyond_reason_is_refused_by_name(override: str) -> None:
    path = override.partition("=")[0]
    with pytest.raises(SettingsError, match=rf"^{path}: .* is not between .* and .*, the limits of"):
        load_settings("smoke", [override])


def test_what_ships_is_within() -> None:
    shipped = profile_names()
    assert {"smoke", "local", "learn", "1gpu", "8gpu-14b", "32b", "l1.5-30b"} <= set(shipped)
    assert [load_settings(name).profile for name in shipped] == list(shipped), "none is refused"
