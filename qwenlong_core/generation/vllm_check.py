"""Is vLLM installed, and does it know the options? Apart from its engine, so that GRPO, which reaches vLLM through TRL,
does not depend on ours.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Container, Iterable
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


def require_options(setting: str, options: Iterable[str]) -> None:
    """Refuse an option that vLLM does not have, before any weights are loaded. Where there are options, vLLM is
    imported.

    Args:
        setting: The setting that chose the engine, such as ``grpo.engine``.
        options: Names of arguments of ``vllm.LLM``.

    Raises:
        ValueError: vLLM has no such argument, or gives wrong log-probs with it on a CPU.
    """
    if not (names := set(options)):
        return
    import torch
    import vllm

    if "speculative_config" in names and not torch.cuda.is_available():
        raise ValueError(
            f"the options of {setting} name 'speculative_config', and this is a CPU: there vLLM 0.31 loses temperature "
            "and nucleus of drafted tokens, so that draws and log-probs are wrong; drop it"
        )

    known = {field.name for field in dataclasses.fields(vllm.EngineArgs)}
    for name in sorted(names - known):
        near = difflib.get_close_matches(name, known, n=1)
        mend = f"did you mean {near[0]!r}?" if near else "drop it"
        raise ValueError(f"the options of {setting} name {name!r}, which vLLM {vllm.__version__} does not have: {mend}")
