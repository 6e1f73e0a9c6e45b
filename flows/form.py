"""What Prefect's form of a deployment offers: choices and bounded numbers, each with its words.

Prefect makes the form from the schema of the flow's parameters, and its server refuses what the schema does not allow
before anything runs. In Python the parameters stay plain, so that a profile of one's own can be given as a path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from operator import attrgetter
from typing import Annotated, Any, Literal

from pydantic import WithJsonSchema, create_model
from pydantic.fields import FieldInfo

from qwenlong.tasks.specs import family_of, stage_names
from qwenlong_core.settings.limits import bounds
from qwenlong_core.settings.profiles import load_settings, profile_names
from qwenlong_core.settings.tree import Settings

BEGINNING, NOTHING = "the beginning", "nothing"
"""The choices that stand for no stage."""

COMMON = {
    "seed": "Seed of data, training and evaluation.",
    "sft.epochs": "Passes of SFT over its rows.",
    "sft.learning_rate": "Learning rate of SFT.",
    "grpo.learning_rate": "Learning rate of GRPO.",
    "grpo.group_size": "Completions per prompt.",
    "grpo.batch_size": "Prompts per rollout batch.",
    "grpo.mini_batch_size": "Prompts per optimizer step; grpo.batch_size must be a multiple of it.",
    "grpo.temperature": "Temperature of the rollouts.",
    "grpo.kl_coefficient": "Weight of the KL divergence from the reference.",
    "grpo.engine": "What samples the rollouts; those of vLLM need a GPU.",
    "evaluation.limit": "Items per source and domain that are evaluated.",
    "evaluation.samples": "Completions per evaluated item.",
    "promotion.margin": "The lower end of the gain's interval must lie above this.",
}
"""Settings that have a field in the form. All others are given as ``overrides``."""


def field_of(setting: str) -> FieldInfo:
    """The field of a setting by dotted name, such as ``grpo.group_size``."""
    *parents, last = setting.split(".")
    block: Any = Settings
    for name in parents:
        block = block.model_fields[name].annotation
    found: FieldInfo = block.model_fields[last]
    return found


def setting_schema(setting: str, profiles: Mapping[str, Settings]) -> dict[str, Any]:
    """JSON schema of a setting's field: its type, its choices or bounds, and what each profile has if it is empty."""
    field = field_of(setting)
    kind: Any = field.annotation
    made = create_model("Form", value=(kind, field)).model_json_schema()["properties"]["value"]
    made |= next((part for part in made.pop("anyOf", ()) if part["type"] != "null"), {})  # an empty field is none
    if made["type"] in ("integer", "number"):
        low, high = bounds(setting.rpartition(".")[2])
        if not made.keys() & {"minimum", "exclusiveMinimum"}:
            made["minimum"] = low
        if not made.keys() & {"maximum", "exclusiveMaximum"}:
            made["maximum"] = high
    words = f"{COMMON[setting]} Empty: as in the profile ({_by_profile(setting, profiles)})."
    return {name: made[name] for name in made.keys() - {"default"}} | {"title": setting, "description": words}


def _by_profile(setting: str, profiles: Mapping[str, Settings]) -> str:
    """``local, smoke: 4; 1gpu: 8``; the value alone where all profiles have it."""
    having: dict[str, list[str]] = {}
    for name, settings in profiles.items():
        having.setdefault(_shown(attrgetter(setting)(settings)), []).append(name)
    if len(having) == 1:
        return next(iter(having))
    return "; ".join(f"{', '.join(names)}: {value}" for value, names in having.items())


def _shown(value: Any) -> str:
    return "all" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def in_order(lists: Iterable[Iterable[str]]) -> list[str]:
    """All names of several lists, each behind the one that it follows in its own list."""
    merged: list[str] = []
    for names in lists:
        place = 0
        for name in names:
            if name not in merged:
                merged.insert(place, name)
            place = merged.index(name) + 1
    return merged


def choices(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What the form offers where these profiles may run: by parameter, the keywords of its schema that depend on them.

    Args:
        names: profiles, as :func:`load_settings` takes them.
    """
    profiles = {name: load_settings(name) for name in names}
    stages = in_order(stage_names(settings) for settings in profiles.values())
    families = [family for family in dict.fromkeys(map(family_of, stages)) if family not in stages]
    return {
        "profile": {"enum": list(profiles)},
        "start": {"enum": [BEGINNING, *stages]},
        "refresh": {"enum": [NOTHING, *stages, *families]},
        "settings": {"properties": {name: setting_schema(name, profiles) for name in COMMON}},
    }


_OFFERED = choices(profile_names())


def _field(words: str, kind: str = "string", **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": kind, "description": words} | more)


Profile = Annotated[
    str, _field("Model, data, sizes and machine, as a file of infra/profiles has them.", **_OFFERED["profile"])
]

Start = Annotated[
    str,
    _field(
        "Run again from this stage. Earlier stages are taken from the profile's newest run, whatever has changed "
        "since. From the beginning, stages that are finished and have not changed are taken from the store.",
        **_OFFERED["start"],
    ),
]

Refresh = Annotated[
    str,
    _field("Make this stage anew, and everything that depends on it, even if it is finished.", **_OFFERED["refresh"]),
]

CommonSettings = Annotated[
    dict[str, Any] | None, _field("What this run does otherwise than its profile.", "object", **_OFFERED["settings"])
]

Overrides = Annotated[
    list[str] | None,
    _field(
        "Any further setting as key=value, for example grpo.phases.0.steps=3, checked before anything runs.",
        "array",
        items={"type": "string"},
    ),
]

TONIGHT: Literal["tonight"] = "tonight"

NightOf = Annotated[
    date | Literal["tonight"],
    _field("The night in UTC whose seed is used: tonight, or a date such as 2026-03-01. It is evaluated once."),
]

# The form sends every default back, so each must be one that its own schema takes: ``None`` is none.
NO_SETTINGS: dict[str, Any] = {}
NO_OVERRIDES: list[str] = []


def stage_or_none(choice: str) -> str | None:
    """The stage that was chosen; ``None`` for the choices that stand for none."""
    return None if choice in (BEGINNING, NOTHING) else choice
