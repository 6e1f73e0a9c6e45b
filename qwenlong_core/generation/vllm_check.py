"""Is vLLM installed? Apart from its engine, so that GRPO, which reaches vLLM through TRL, does not depend on ours."""

from __future__ import annotations

from importlib.util import find_spec


def require_vllm(setting: str, engine: str) -> None:
    """Refuse a vLLM engine where vLLM is not installed. Nothing is imported: that would take several seconds.

    Args:
        setting: The setting that chose the engine, such as ``grpo.engine``.
        engine: Its value.

    Raises:
        ValueError: vLLM is missing; the message names the extra that installs it.
    """
    if engine.startswith("vllm") and find_spec("vllm") is None:
        raise ValueError(f"{setting}={engine!r} needs vLLM: pip install -e '.[gpu]', or set {setting}='transformers'")
