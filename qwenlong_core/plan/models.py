"""Which shape a profile's model has: from its folder, from what ships with the project, or from the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qwenlong_core.bundled import BUNDLED
from qwenlong_core.plan.shapes import Shape, shape_from
from qwenlong_core.rehearsal.rehearse import SHAPES
from qwenlong_core.settings.model import ModelSettings

_LLAMA = {"model_type": "llama", "vocab_size": 49152, "tie_word_embeddings": True}
KNOWN: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-0.6B": {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "smollm2-135m": _LLAMA
    | {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "tiny": _LLAMA
    | {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
"""Shapes of the small profiles' models. Those of the large ones are files beside the profiles, for rehearsals too."""


def shape_of(model: ModelSettings) -> Shape:
    """The shape of the profile's base model.

    It comes from the model's folder, from what ships with the project, or from the hub (a file of a few kilobytes).

    Raises:
        NoPlan: a model that a plan cannot reckon with.
        ConnectionError: the hub does not have it or does not answer.
    """
    folder = Path(model.name)
    if model.name not in BUNDLED and (folder / "config.json").is_file():
        return shape_from(json.loads((folder / "config.json").read_text()), model.name)
    if model.name in KNOWN:
        return shape_from(KNOWN[model.name], model.name)
    shipped = SHAPES / f"{model.name.rpartition('/')[2]}.json"
    if shipped.is_file():
        return shape_from(json.loads(shipped.read_text()), model.name)
    return shape_from(_from_hub(model), model.name)


def _from_hub(model: ModelSettings) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(model.name, "config.json", revision=model.revision)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"the shape of model.name={model.name!r} is not known, and the hub gave no config.json"
            f" ({' '.join(str(error).split())}): name a downloaded folder"
        ) from error
    config: dict[str, Any] = json.loads(Path(path).read_text())
    return config
