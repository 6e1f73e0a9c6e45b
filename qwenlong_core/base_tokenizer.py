"""The base policy's tokenizer with the chat template that its prompts will have, without the weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from qwenlong_core.bundled import BUNDLED, bundled_tokenizer
from qwenlong_core.data.prompts import require_chat_template
from qwenlong_core.settings.model import ModelSettings

_SWITCH = re.compile(r"\A\{% set enable_thinking = (?:true|false) %\}\n")
"""What ``model.enable_thinking`` puts before a template. The renderer drops the line break after a block."""


def base_tokenizer(settings: ModelSettings) -> Any:
    """The tokenizer of the settings' model, under ``model.chat_template`` and ``model.enable_thinking``.

    Raises:
        ValueError: there is no chat template, its file is missing or not text, or it has no switch for thinking.
        OSError: neither a folder nor the hub has the tokenizer.
    """
    if settings.name in BUNDLED:
        tokenizer = bundled_tokenizer()
    else:
        from qwenlong_core.auto import AutoTokenizer  # takes seconds to load

        tokenizer = AutoTokenizer.from_pretrained(settings.name, revision=settings.revision or "main")
    return with_template(tokenizer, settings)


def with_template(tokenizer: Any, settings: ModelSettings) -> Any:
    """The tokenizer under ``model.chat_template`` and ``model.enable_thinking``.

    Raises:
        ValueError: there is no chat template, its file is missing or not text, or it has no switch for thinking.
    """
    if settings.chat_template is not None:
        tokenizer.chat_template = chat_template_file(settings.chat_template).read_text(encoding="utf-8")
    require_chat_template(tokenizer, repr(settings.name))
    if settings.enable_thinking is not None:
        _set_thinking(tokenizer, settings.enable_thinking, repr(settings.name))
    return tokenizer


def _set_thinking(tokenizer: Any, on: bool, name: str) -> None:
    """Set the template's ``enable_thinking`` to one value, whatever value a caller or a server passes.

    Raises:
        ValueError: the template has no such switch: it renders the same prompt with both values.
    """
    template = tokenizer.get_chat_template()
    turn = [{"role": "user", "content": "How much?"}]
    prompts = {
        tokenizer.apply_chat_template(
            turn, tokenize=False, add_generation_prompt=True, chat_template=_switched(template, value)
        )
        for value in (True, False)
    }
    if len(prompts) == 1:
        raise ValueError(
            f"model.enable_thinking={str(on).lower()}: the chat template of model {name} has no such switch, since its "
            "prompts are the same with both values: drop the setting, or name a template with the switch in "
            "model.chat_template"
        )
    named = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
    tokenizer.chat_template = {**named, "default": _switched(template, on)} if named else _switched(template, on)


def _switched(template: str, on: bool) -> str:
    return f"{{% set enable_thinking = {str(on).lower()} %}}\n" + _SWITCH.sub("", template)


def chat_template_file(path: str) -> Path:
    """The file of ``model.chat_template``.

    Raises:
        ValueError: there is no such file.
    """
    if not Path(path).is_file():
        raise ValueError(f"model.chat_template={path!r} is no file: name a Jinja file with the model's chat template")
    return Path(path)
