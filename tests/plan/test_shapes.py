"""A model's shape: its numbers of parameters are transformers' own."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from qwenlong_core.plan.known import KNOWN
from qwenlong_core.plan.models import shape_of
from qwenlong_core.plan.shapes import shape_from
from qwenlong_core.settings.model import ModelSettings


@pytest.mark.parametrize("name", KNOWN)
def test_parameters_are_those_of_the_model(name):
    fields = dict(KNOWN[name])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))
    assert shape_of(ModelSettings(name=name)).parameters == model.num_parameters()


def test_the_bundled_models_have_the_shapes_of_the_table(policy):
    own = shape_of(ModelSettings(name=str(policy)))
    assert own == shape_of(ModelSettings(name="tiny"))


def test_a_mixture_of_experts_is_refused(tmp_path):
    config = KNOWN["Qwen/Qwen3-0.6B"] | {"num_experts": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"mixture of experts \(num_experts=8\)"):
        shape_of(ModelSettings(name=str(tmp_path)))


def test_a_config_without_a_size_is_refused():
    with pytest.raises(ValueError, match="has no intermediate_size"):
        shape_from({"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2}, "x")
