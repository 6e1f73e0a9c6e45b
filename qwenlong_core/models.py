"""Policies: import a base model as a plain transformers folder, and load such a folder.

An imported folder holds ``config.json``, ``model.safetensors`` and the tokenizer's files. Stages hand weights to
each other in this form only. Stage command: ``python -m qwenlong_core.models``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from qwenlong_core.auto import AutoModelForCausalLM, AutoTokenizer
from qwenlong_core.base_tokenizer import base_tokenizer, with_template
from qwenlong_core.bundled import BUNDLED
from qwenlong_core.bundled_weights import bundled_model
from qwenlong_core.data.prompts import require_chat_template
from qwenlong_core.jobs import BaseJob
from qwenlong_core.model_files import refuse_unknown
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.stage_main import OUTPUT, stage_main

logger = logging.getLogger(__name__)

_TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def load_tokenizer(folder: Path) -> Any:
    """Tokenizer of an imported policy, with a padding token set.

    Raises:
        ValueError: it has no chat template.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    require_chat_template(tokenizer, f"in {folder}")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def attention_implementation(settings: ModelSettings) -> str:
    """The attention that will be used: ``auto`` takes flash-attn on a GPU that has it, else SDPA."""
    if settings.attention != "auto":
        return settings.attention
    return "flash_attention_2" if torch.cuda.is_available() and is_flash_attn_2_available() else "sdpa"


def load_policy(folder: Path, settings: ModelSettings) -> PreTrainedModel:
    """Load the weights of an imported policy, with the dtype and attention of the settings."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, settings.dtype), attn_implementation=attention_implementation(settings)
    )
    return model


def tiny_policy(tokenizer: Any, seed: int = 0) -> PreTrainedModel:
    """The model of ``model.name = "tiny"``: random weights, with the vocabulary of a tokenizer."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **_TINY,  # type: ignore[arg-type]
    )
    return LlamaForCausalLM(config)


def _from_hub_or_folder(settings: ModelSettings) -> tuple[PreTrainedModel, Any]:
    if settings.revision and Path(settings.name).is_dir():
        raise ValueError(
            f"model.revision={settings.revision!r} needs a hub id; {settings.name!r} is a folder: drop revision"
        )
    # The template is checked before the weights, which may take an hour.
    tokenizer = with_template(_loaded(AutoTokenizer, settings), settings)
    return _loaded(AutoModelForCausalLM, settings, dtype=getattr(torch, settings.dtype)), tokenizer


def _loaded(kind: Any, settings: ModelSettings, **options: Any) -> Any:
    """What the hub or the folder holds, with an error that names the mend."""
    try:
        return kind.from_pretrained(settings.name, revision=settings.revision or "main", **options)
    except OSError as error:
        refuse_unknown(settings, error)
        raise ConnectionError(
            f"model {settings.name!r} could not be loaded from the hub or as a local folder: {str(error).rstrip('.')}. "
            "Without network give a downloaded folder instead (model.name)"
        ) from error
    except ValueError as error:  # files of another kind, or a model that this transformers does not know
        raise ValueError(
            f"model {settings.name!r} is not a model that transformers can load ({' '.join(str(error).split())}): name "
            "a folder with config.json, weights and tokenizer, or a hub id (model.name)"
        ) from error


def _scale_rope(model: PreTrainedModel, settings: ModelSettings) -> None:
    """Write YaRN scaling into the config, so that every later load of the folder uses it."""
    if settings.yarn_factor == 1:
        return
    original = settings.yarn_original_positions or model.config.max_position_embeddings
    rope = dict(model.config.rope_parameters or {})
    model.config.rope_parameters = rope | {
        "rope_type": "yarn",
        "factor": settings.yarn_factor,
        "original_max_position_embeddings": original,
    }
    model.config.max_position_embeddings = int(original * settings.yarn_factor)


def import_base(settings: ModelSettings, folder: Path) -> None:
    """Write the base policy of the settings to ``folder`` as config, safetensors and tokenizer."""
    if settings.name in BUNDLED:
        tokenizer = base_tokenizer(settings)
        model = tiny_policy(tokenizer) if settings.name == "tiny" else bundled_model()
    else:
        model, tokenizer = _from_hub_or_folder(settings)
    _scale_rope(model, settings)
    model.to(getattr(torch, settings.dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    logger.info("base model %s: %.1f million parameters", settings.name, model.num_parameters() / 1e6)


def run(job: BaseJob, inputs: Mapping[str, Path], work: Path) -> None:
    """The base stage: no inputs, output is a policy folder."""
    import_base(job.model, work / OUTPUT)


if __name__ == "__main__":
    stage_main(BaseJob, run)
