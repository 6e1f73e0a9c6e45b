"""transformers' automatic classes, with the model families of other distributions (entry points ``qwenlong.models``).

Whatever loads a config, a tokenizer or weights takes the classes from here, so that every process knows the families.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from qwenlong_core.plugged import plugged, refused

__all__ = ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "families"]


@functools.cache
def families() -> dict[str, Callable[[], Any]]:
    """The functions that register a family with transformers, by name; each has been called, once in this process.

    Raises:
        ValueError: one cannot be imported or raised an exception, such as for a type that transformers has already.
    """
    found: dict[str, Callable[[], Any]] = plugged("models", Callable)  # type: ignore[arg-type]
    for name, register in found.items():
        try:
            register()
        except Exception as error:  # whatever the other distribution's code raises
            raise refused("models", name, f"raised {type(error).__name__}: {error}") from error
    return found


families()
