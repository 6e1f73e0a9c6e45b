"""Is vLLM installed? Apart from its engine, so that GRPO, which reaches vLLM through TRL, does not depend on ours."""

from __future__ import annotations

from collections.abc import Container
from importlib.util import find_spec

from qwenlong_core.errors import STAGE_ENVIRONMENT


def require_vllm(setting: str, engine: str, packages: Container[str] | None = None) -> None:
    """Refuse a vLLM engine where vLLM is not installed. Nothing is imported: that would take several seconds.

    Args:
        setting: The setting that chose the engine, such as ``grpo.engine``.
        engine: Its value.
        packages: What can be imported in the interpreter that will run it; ``None`` for this process.

    Raises:
        ValueError: vLLM is missing; the message says how to install it.
    """
    if not engine.startswith("vllm"):
        return
    if find_spec("vllm") is None if packages is None else "vllm" not in packages:
        raise ValueError(
            f"{setting}={engine!r} needs vLLM, which the interpreter of the stages lacks: {STAGE_ENVIRONMENT}; or set "
            f"{setting}='transformers'"
        )
