"""Templates that think: the switch ``model.enable_thinking``, and what SFT appends to a prompt."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from qwenlong_core.base_tokenizer import with_template
from qwenlong_core.data.prompts import as_completion, opens_thinking, render_prompt
from qwenlong_core.records import Example
from qwenlong_core.settings.model import ModelSettings

R1_DISTILL = (
    "{% if not add_generation_prompt is defined -%}{%- set add_generation_prompt = false -%}{%- endif -%}"
    "{%- set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') -%}"
    "{%- for message in messages -%}{%- if message['role'] == 'system' -%}"
    "{%- set ns.system_prompt = message['content'] -%}{%- endif -%}{%- endfor -%}{{bos_token}}{{ns.system_prompt}}"
    "{%- for message in messages -%}{%- if message['role'] == 'user' -%}{%- set ns.is_tool = false -%}"
    "{{'<｜User｜>' + message['content']}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt and not ns.is_tool -%}{{'<｜Assistant｜><think>\\n'}}{%- endif %}"
)
"""The chat template of deepseek-ai/DeepSeek-R1-Distill-Qwen-32B as published (MIT; copy in llama.cpp,
models/templates/), without its branches for tools and earlier answers, which a single question does not reach."""

QWEN3 = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == "user" and not message.content.startswith('<tool_response>') %}
        {%- set ns.last_query_index = (messages|length - 1) - loop.index0 %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
"""In the constructs of Qwen3's template, which can close the thinking but leaves it to the model to open it."""
_ENDS = "    {%- endif %}\n{%- endif %}\n"
OPENS_IT = QWEN3.removesuffix(_ENDS) + "    {%- else %}\n        {{- '<think>\\n' }}\n" + _ENDS
"""As in Qwen3.5: with thinking on, the template opens it."""

ROW = Example(
    id="r", source="t", domain="math", answer_type="number", context="Sales were 5.", question="How much?",
    answers=("5",),
)  # fmt: skip


@pytest.fixture
def tokenizer(tokenizer: Any) -> Any:
    """A copy, whose template a test may change."""
    return copy.deepcopy(tokenizer)


@pytest.mark.parametrize("opening", ["<think>\n", "<think>", "\n<think>\n", ""])
def test_under_the_template_of_r1_the_thinking_is_opened_once(tokenizer: Any, opening: str) -> None:
    tokenizer.chat_template = R1_DISTILL
    prompt = render_prompt(tokenizer, ROW)
    assert opens_thinking(prompt)
    whole = prompt + as_completion(prompt, f"{opening}I read it.\n</think>\n\nTherefore, the answer is 5.")
    assert whole.count("<think>") == whole.count("</think>") == 1
    assert whole.endswith("<think>\nI read it.\n</think>\n\nTherefore, the answer is 5.")


def test_a_solution_that_never_closes_the_thinking_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has no </think>, so all of it would be thinking"):
        as_completion("<think>\n", "Therefore, the answer is 5.")


def test_a_closed_block_takes_no_thinking_and_other_prompts_take_all() -> None:
    solution = "<think>\nI read it.\n</think>\n\nTherefore, the answer is 5."
    assert as_completion("assistant\n<think>\n\n</think>\n\n", solution) == "Therefore, the answer is 5."
    assert as_completion("assistant\n", solution) == solution


@pytest.mark.parametrize("answerless", ["<think>\nI read it.\n</think>\n", "<think>\nI read it, and on and on"])
def test_a_solution_without_an_answer_after_a_closed_block_is_refused(answerless: str) -> None:
    with pytest.raises(ValueError, match="no answer after its thinking"):
        as_completion("assistant\n<think>\n\n</think>\n\n", answerless)


def thinking(tokenizer: Any, template: Any, on: bool) -> Any:
    """The tokenizer as the stage ``base`` writes it."""
    tokenizer.chat_template = template
    return with_template(tokenizer, ModelSettings(name="m", enable_thinking=on))


@pytest.mark.parametrize("start", ["", "\n", "  ", "\n\n  ", "{# Qwen #}\n"])
@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("template", [QWEN3, OPENS_IT])
def test_the_setting_renders_what_a_caller_gets_who_passes_the_switch(
    tokenizer: Any, template: str, on: bool, start: str
) -> None:
    turn = [{"role": "user", "content": "How much?"}]
    options = {"tokenize": False, "add_generation_prompt": True}
    passed = tokenizer.apply_chat_template(turn, chat_template=start + template, enable_thinking=on, **options)
    set_once = thinking(tokenizer, start + template, on)
    for called in ({}, {"enable_thinking": on}, {"enable_thinking": not on}):
        assert set_once.apply_chat_template(turn, **options, **called) == passed


@pytest.mark.parametrize("template", [QWEN3, OPENS_IT])
@pytest.mark.parametrize(("on", "thought"), [(True, "<think>\nI read it.\n"), (False, "<think>\n\n")])
def test_sft_trains_on_the_thinking_with_the_switch_on_and_on_the_answer_alone_with_it_off(
    tokenizer: Any, template: str, on: bool, thought: str
) -> None:
    prompt = render_prompt(thinking(tokenizer, template, on), ROW)
    assert opens_thinking(prompt) is (template == OPENS_IT and on)
    whole = prompt + as_completion(prompt, "<think>\nI read it.\n</think>\n\nTherefore, the answer is 5.")
    assert whole.endswith(f"assistant\n{thought}</think>\n\nTherefore, the answer is 5.")


def test_a_model_that_was_exported_with_the_switch_can_be_set_anew(tokenizer: Any) -> None:
    off = thinking(tokenizer, QWEN3, False)
    assert render_prompt(off, ROW).endswith("</think>\n\n")
    on = thinking(off, off.chat_template, True)
    assert render_prompt(on, ROW).endswith("assistant\n")
    assert on.chat_template.count("set enable_thinking") == 1


def test_named_templates_stay_beside_the_default(tokenizer: Any) -> None:
    both = thinking(tokenizer, {"default": QWEN3, "tool_use": "tools"}, False)
    assert render_prompt(both, ROW).endswith("</think>\n\n")
    assert both.chat_template["tool_use"] == "tools"


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("template", [R1_DISTILL, "{# enable_thinking #}{{ messages[0].content }}"])
def test_a_template_without_the_switch_is_refused_with_the_mend(tokenizer: Any, template: str, on: bool) -> None:
    with pytest.raises(ValueError, match=rf"model\.enable_thinking={str(on).lower()}: .* model 'm' has no such switch"):
        thinking(tokenizer, template, on)
