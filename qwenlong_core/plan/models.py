"""Which shape a profile's model has: from its folder, from the table of the profiles' models, or from the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qwenlong_core.bundled import BUNDLED
from qwenlong_core.model_files import refuse_unknown
from qwenlong_core.plan.known import KNOWN
from qwenlong_core.plan.shapes import Shape, shape_from
from qwenlong_core.settings.model import ModelSettings


def shape_of(model: ModelSettings) -> Shape:
    """The shape of the profile's base model.

    It comes from the folder, from the table of the profiles' models, or from the hub (a file of a few kilobytes).

    Raises:
        NoPlan: a model that a plan cannot reckon with.
        ValueError: the hub does not have it.
        ConnectionError: the hub does not answer.
    """
    folder = Path(model.name)
    if model.name not in BUNDLED and (folder / "config.json").is_file():
        return shape_from(json.loads((folder / "config.json").read_text()), model.name)
    if model.name in KNOWN:
        return shape_from(KNOWN[model.name], model.name)
    return shape_from(_from_hub(model), model.name)


def _from_hub(model: ModelSettings) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(model.name, "config.json", revision=model.revision)
    except (OSError, ValueError) as error:
        refuse_unknown(model, error)
        raise ConnectionError(
            f"the shape of model.name={model.name!r} is not known, and the hub gave no config.json"
            f" ({' '.join(str(error).split())}): name a downloaded folder"
        ) from error
    config: dict[str, Any] = json.loads(Path(path).read_text())
    return config
