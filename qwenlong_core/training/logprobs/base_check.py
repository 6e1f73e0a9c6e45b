"""Whether the base model of a run suits ``launch.sequence_parallel``, before any stage runs.

No stage imports this module: the table of known shapes is not code that a result depends on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from qwenlong_core.auto import AutoConfig
from qwenlong_core.bundled import BUNDLED
from qwenlong_core.models import attention_implementation
from qwenlong_core.plan.known import KNOWN
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.training.logprobs.span_check import require_cuttable_config


def require_cuttable_base(settings: Settings, *, fetch: bool) -> bool:
    """Refuse a base model whose rows the ranks cannot cut, with the message that training would give.

    Args:
        settings: The run's.
        fetch: Whether to ask the hub for a config that is not in its cache.

    Returns:
        Whether the model's config was at hand.

    Raises:
        ValueError: heads or a kind of model that cannot be cut; the message has the numbers of ranks that fit.
        OSError: the hub has no such model.
    """
    config = _config(settings.model, fetch)
    if config is None:
        return False
    config._attn_implementation = attention_implementation(settings.model)
    require_cuttable_config(config, settings.launch.sequence_parallel)
    return True


def _config(model: ModelSettings, fetch: bool) -> Any:
    """From the model's folder, the table of known shapes, the hub's cache or the hub; ``None`` if none has it."""
    revision = model.revision or "main"
    if model.name not in BUNDLED and Path(model.name).is_dir():
        return AutoConfig.from_pretrained(model.name)
    if model.name in KNOWN:
        return AutoConfig.for_model(**KNOWN[model.name])
    if fetch or isinstance(try_to_load_from_cache(model.name, "config.json", revision=revision), str):
        return AutoConfig.from_pretrained(model.name, revision=revision)
    return None
