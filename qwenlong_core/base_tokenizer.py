"""The base policy's tokenizer with the chat template that its prompts will have, without the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qwenlong_core.bundled import BUNDLED, bundled_tokenizer
from qwenlong_core.data.prompts import require_chat_template
from qwenlong_core.settings.model import ModelSettings


def base_tokenizer(settings: ModelSettings) -> Any:
    """The tokenizer of the settings' model, under ``model.chat_template`` where that is given.

    Raises:
        ValueError: there is no chat template, or its file is missing or not text.
        OSError: neither a folder nor the hub has the tokenizer.
    """
    if settings.name in BUNDLED:
        tokenizer = bundled_tokenizer()
    else:
        from transformers import AutoTokenizer  # takes seconds to load

        tokenizer = AutoTokenizer.from_pretrained(settings.name, revision=settings.revision or "main")
    return with_template(tokenizer, settings)


def with_template(tokenizer: Any, settings: ModelSettings) -> Any:
    """The tokenizer under ``model.chat_template``.

    Raises:
        ValueError: there is no chat template, or its file is missing or not text.
    """
    if settings.chat_template is not None:
        tokenizer.chat_template = chat_template_file(settings.chat_template).read_text(encoding="utf-8")
    require_chat_template(tokenizer, repr(settings.name))
    return tokenizer


def chat_template_file(path: str) -> Path:
    """The file of ``model.chat_template``.

    Raises:
        ValueError: there is no such file.
    """
    if not Path(path).is_file():
        raise ValueError(f"model.chat_template={path!r} is no file: name a Jinja file with the model's chat template")
    return Path(path)
