"""What is refused before a process starts."""

from __future__ import annotations

import pytest

from qwenlong_core.rehearsal.rehearse import model_shape, rehearse
from qwenlong_core.rehearsal.shim import NoRehearsal
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.profiles import load_settings


@pytest.mark.parametrize(
    "stage, override, reason",
    [
        ("probe", "seed=1", "stage 'probe' cannot be rehearsed"),
        ("sft", "sft.packing=true sft.micro_batch_size=2", "sft.packing cannot be rehearsed"),
        ("grpo-0", "seed=1", "stage 'grpo-0' cannot be rehearsed"),
        ("grpo-1", "launch.activation_offload=true", r"launch\.activation_offload cannot"),
        ("grpo-1", "model.name=some/model", "model.name='some/model': its shape is not known"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused(stage: str, override: str, reason: str) -> None:
    with pytest.raises(NoRehearsal, match=reason):
        rehearse(load_settings("8gpu-14b", override.split()), stage, 1000, 100)


def test_a_folder_has_its_own_shape(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 7}')
    assert model_shape(ModelSettings(name=str(tmp_path))) == {"num_hidden_layers": 7}
