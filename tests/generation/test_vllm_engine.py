"""Without vLLM the engine says which extra is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from qwenlong_core.generation.vllm_engine import VLLMEngine


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_a_missing_vllm_names_the_extra_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.\[gpu\].*transformers"):
        VLLMEngine(tmp_path, "float32", 128)
