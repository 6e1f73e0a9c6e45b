"""Is vLLM installed, and does it know the options? Apart from its engine, so that GRPO, which reaches vLLM through TRL,
does not depend on ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from qwenlong_core.errors import STAGE_ENVIRONMENT
from qwenlong_core.interpreter import vllm_of

if TYPE_CHECKING:
    from qwenlong_core.settings.tree import Settings


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


def require_engine(stage: str, settings: Settings, packages: Container[str]) -> None:
    """Refuse a stage's engine that the interpreter of the stages lacks, and options that its vLLM does not have.

    Args:
        stage: ``grpo`` or ``evaluate``.
        settings: Those of the run.
        packages: What can be imported in ``launch.python``.

    Raises:
        ValueError: see :func:`require_vllm` and :func:`require_known_options`.
    """
    grpo, evaluation = settings.grpo, settings.evaluation
    setting, engine, options = {
        "grpo": ("grpo.engine", grpo.engine, grpo.vllm.options if grpo.vllm else {}),
        "evaluate": ("evaluation.engine", evaluation.engine, evaluation.vllm_options),
    }[stage]
    require_vllm(setting, engine, packages)
    if not settings.launch.across:  # otherwise the machines of the stage may have GPUs that this one lacks
        require_known_options(setting, options, settings.launch.python)


def require_options(setting: str, options: Iterable[str]) -> None:
    """Refuse an option that the vLLM of this process does not have or gets wrong, before any weights are loaded.

    Args:
        setting: The setting that chose the engine, such as ``grpo.engine``.
        options: Names of arguments of ``vllm.LLM``.

    Raises:
        ValueError: vLLM has no such argument, or gives wrong log-probs with it on a CPU.
    """
    if not (names := set(options)):
        return
    import torch

    if "speculative_config" in names and not torch.cuda.is_available():
        raise ValueError(
            f"the options of {setting} name 'speculative_config', and this is a CPU: there vLLM 0.31 loses temperature "
            "and nucleus of drafted tokens, so that draws and log-probs are wrong; drop it"
        )
    require_known_options(setting, names, python=None)


def require_known_options(setting: str, options: Iterable[str], python: str | None) -> None:
    """Refuse an option that vLLM does not have. Where there are options, vLLM is loaded.

    Args:
        setting: The setting that chose the engine, such as ``grpo.engine``.
        options: Names of arguments of ``vllm.LLM``.
        python: The interpreter whose vLLM is asked (``launch.python``); ``None`` for this process.

    Raises:
        ValueError: vLLM has no such argument, or cannot be loaded there.
    """
    if not (names := set(options)):
        return
    found = vllm_of(python)
    for name in sorted(names.difference(found.arguments)):
        near = difflib.get_close_matches(name, found.arguments, n=1)
        mend = f"did you mean {near[0]!r}?" if near else "drop it"
        raise ValueError(f"the options of {setting} name {name!r}, which vLLM {found.version} does not have: {mend}")
