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

THINKING = "Qwen/Qwen3-30B-A3B-Thinking-2507"


@pytest.mark.parametrize("name", KNOWN)
def test_parameters_are_those_of_the_model(name):
    fields = dict(KNOWN[name])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))
    assert shape_of(ModelSettings(name=name)).parameters == model.num_parameters()


def test_the_bundled_models_have_the_shapes_of_the_table(policy):
    own = shape_of(ModelSettings(name=str(policy)))
    assert own == shape_of(ModelSettings(name="tiny"))


def test_the_sizes_of_qwen3_30b_a3b():
    """By hand, from the published config; its card says 30.5B parameters, 29.9B without embeddings, 3.3B activated."""
    shape = shape_of(ModelSettings(name=THINKING))
    attention = 2 * 2048 * 32 * 128 + 2 * 2048 * 4 * 128  # queries and output, keys and values
    expert, router = 3 * 2048 * 768, 2048 * 128
    norms = 2 * 2048 + 2 * 128
    layer = attention + router + 128 * expert + norms
    assert (attention, expert, layer) == (18_874_368, 4_718_592, 623_120_640)
    assert shape.layer == layer
    assert shape.parameters == 48 * layer + 2 * 151_936 * 2048 + 2048 == 30_532_122_624
    assert shape.parameters - 2 * shape.embedding == pytest.approx(29.9e9, rel=2e-3)
    activated = 48 * (attention + router + 8 * expert) + 2 * 151_936 * 2048
    assert 48 * shape.layer_products + 2 * shape.embedding == activated == pytest.approx(3.3e9, rel=2e-2)
    assert shape.idle == 120 * expert


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "mixtral"}, r"mixture of experts \(num_experts=128\) of type 'mixtral'"),
        ({"mlp_only_layers": [0]}, "experts in every layer"),
        ({"decoder_sparse_step": 2}, "experts in every layer"),
    ],
)
def test_other_mixtures_of_experts_are_refused(change, reason, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(KNOWN[THINKING] | change))
    with pytest.raises(ValueError, match=reason):
        shape_of(ModelSettings(name=str(tmp_path)))


def test_a_config_as_training_sees_it_has_the_same_shape():
    fields = dict(KNOWN[THINKING])
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    assert shape_from(config.to_dict(), "x") == shape_of(ModelSettings(name=THINKING))


def test_a_config_without_a_size_is_refused():
    with pytest.raises(ValueError, match="has no intermediate_size"):
        shape_from({"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2}, "x")
