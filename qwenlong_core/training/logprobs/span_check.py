"""Whether the ranks of a span can compute the rows of a model together: asked at the door and again by the trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from qwenlong_core.auto import AutoConfig
from qwenlong_core.models import attention_implementation
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.spans import heads_reason
from qwenlong_core.training.logprobs.attention import unsupported_config


def require_cuttable(config: Any, kind: type[Any], size: int) -> None:
    """Refuse ``launch.sequence_parallel`` where the model does not allow it; one rank is always possible.

    Args:
        config: The model's.
        kind: The model's class.
        size: Ranks of a span, S.

    Raises:
        ValueError: its attention cannot be replaced or cut, or its heads cannot be dealt to the ranks; the message has
            the numbers of ranks that fit.
    """
    if size == 1:
        return
    text = config.get_text_config()
    reason = unsupported_config(text, replaceable=kind._supports_attention_backend)
    reason = reason or heads_reason(text.num_attention_heads, text.num_key_value_heads, size)
    if reason is not None:
        raise ValueError(f"launch.sequence_parallel={size} cannot be used with {kind.__name__}: {reason}")


def require_cuttable_policy(folder: Path, model: ModelSettings, size: int) -> None:
    """:func:`require_cuttable` before the weights of a policy folder are loaded."""
    if size > 1:
        attention = attention_implementation(model)
        require_cuttable_config(AutoConfig.from_pretrained(folder, attn_implementation=attention), size)


def require_cuttable_config(config: Any, size: int) -> None:
    """:func:`require_cuttable` before the model exists, from its config alone.

    Raises:
        ValueError: as there, or transformers has no causal language model for the config.
    """
    if size == 1:
        return
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"launch.sequence_parallel={size} cannot be used with a model of type {config.model_type!r}: transformers "
            "has no causal language model for it"
        )
    require_cuttable(config, MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], size)
