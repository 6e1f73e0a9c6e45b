"""What Prefect's form offers, checked with Prefect's own schema and validator, and the page of a failed run."""

from __future__ import annotations

import re
from operator import attrgetter
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from qwenlong.flows.form import COMMON, choices, in_order
from qwenlong.flows.full_pipeline import full_pipeline
from qwenlong.flows.go_on import command_of, form_page, page_text
from qwenlong.flows.nightly_eval import nightly_eval
from qwenlong.flows.promote import promote
from qwenlong.tasks.specs import stage_names
from qwenlong_core.settings.profiles import load_settings, profile_names

SCHEMA: Any = parameter_schema(full_pipeline).model_dump_for_openapi()


@pytest.mark.parametrize("flow", [full_pipeline, nightly_eval, promote], ids=lambda flow: flow.name)
def test_every_field_has_a_description_and_no_switch_for_nothing(flow):
    for name, field in parameter_schema(flow).properties.items():
        assert re.fullmatch(r"[A-Z].*\.", field["description"]), name
        assert "anyOf" not in field and "type" in field, name


@pytest.mark.parametrize("flow", [full_pipeline, nightly_eval, promote], ids=lambda flow: flow.name)
def test_the_form_as_it_comes_can_be_submitted(flow):
    schema: Any = parameter_schema(flow).model_dump_for_openapi()
    as_it_comes = {name: field["default"] for name, field in schema["properties"].items()}
    assert validate(as_it_comes, schema) == []


def test_every_stage_of_every_profile_is_a_choice_in_the_order_it_runs():
    offered = SCHEMA["properties"]["start"]["enum"]
    assert set(SCHEMA["properties"]["profile"]["enum"]) == set(profile_names())
    for profile in profile_names():
        names = stage_names(load_settings(profile))
        assert [name for name in offered if name in names] == names, profile


def test_a_name_of_one_list_alone_stands_where_it_stands_there():
    assert in_order([["a", "b", "d"], ["a", "c", "d", "e"], ["x", "e"]]) == ["x", "a", "c", "b", "d", "e"]


@pytest.mark.parametrize("setting", COMMON)
def test_a_setting_of_the_form_is_a_choice_or_a_number_with_bounds_and_takes_the_profiles_values(setting):
    field = SCHEMA["properties"]["settings"]["properties"][setting]
    if field["type"] == "string":
        assert len(field["enum"]) > 1
    else:
        assert field.keys() & {"minimum", "exclusiveMinimum"} and field.keys() & {"maximum", "exclusiveMaximum"}
    for profile in profile_names():
        value = attrgetter(setting)(load_settings(profile))
        if value is not None:
            validate({"settings": {setting: value}}, SCHEMA, raise_on_error=True)
            assert load_settings(profile, values={setting: value}) == load_settings(profile)


@pytest.mark.parametrize(
    "wrong",
    [
        {"profile": "nosuch"},
        {"start": "grpo-9"},
        {"refresh": "all"},
        {"settings": {"grpo.group_size": 1}},
        {"settings": {"grpo.learning_rate": 0}},
        {"settings": {"grpo.temperature": 1e9}},
        {"settings": {"grpo.engine": "magic"}},
        {"settings": {"sft.epochs": "many"}},
    ],
    ids=str,
)
def test_prefects_server_refuses_what_cannot_run(wrong):
    with pytest.raises(ValidationError):
        validate(wrong, SCHEMA, raise_on_error=True)


def test_a_profile_of_ones_own_brings_its_stages(tmp_path):
    own = tmp_path / "mine.toml"
    phases = [
        {"max_prompt_tokens": 200 * n, "max_completion_tokens": 64, "cache_tokens": 8, "steps": 1} for n in range(1, 6)
    ]
    own.write_text('[model]\nname = "tiny"\n' + "".join(_table(phase) for phase in phases))
    offered = choices(["smoke", str(own)])
    assert offered["profile"]["enum"] == ["smoke", str(own)] and "grpo-5" in offered["start"]["enum"]


def _table(phase: dict[str, int]) -> str:
    return "[[grpo.phases]]\n" + "".join(f"{name} = {value}\n" for name, value in phase.items())


PARAMETERS = {
    "profile": "smoke",
    "start": "the beginning",
    "refresh": "grpo",
    "settings": {"grpo.learning_rate": 1e-6, "evaluation.limit": None, "grpo.engine": "transformers"},
    "overrides": ["data.train=['a b.jsonl']"],
}


def test_the_command_of_a_run_gives_the_settings_of_its_form():
    words = command_of(PARAMETERS)
    assert words == (
        "qwenlong run --profile smoke --set grpo.learning_rate=1e-06 --set evaluation.limit=none "
        "--set grpo.engine=transformers --set 'data.train=['\"'\"'a b.jsonl'\"'\"']' --refresh grpo"
    )


def test_the_page_of_a_failed_run_names_stage_reason_command_and_form():
    text = page_text("grpo-2", ["base", "prepare"], "killed", ("qwenlong run --profile smoke", "http://p/run"))
    for part in ("# Stopped at grpo-2", "> killed", "base, prepare", "[run it again](http://p/run)", "--from grpo-2"):
        assert part in text
    assert "In the form" not in page_text("sft", [], "killed", ("qwenlong run", None))


def test_the_forms_address_is_filled_in(monkeypatch):
    assert form_page(PARAMETERS) is None, "a run of no deployment"
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "abc")
    address = urlsplit(form_page(PARAMETERS | {"overrides": None, "settings": None}))
    assert address.path == "/deployments/deployment/abc/run"
    assert parse_qs(address.query) == {
        "parameters": ['{"profile": "smoke", "start": "the beginning", "refresh": "grpo"}']
    }
