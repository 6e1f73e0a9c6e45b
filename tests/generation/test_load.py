"""The maker of engines: what does not fit is refused before a weight is read."""

import json

import pytest

from qwenlong_core.generation.load import context_of, load_engine
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.running import LaunchSettings


def test_the_context_is_read_from_the_config_also_of_a_composed_model(tmp_path):
    assert context_of(tmp_path) is None
    for config in ({"max_position_embeddings": 4096}, {"text_config": {"max_position_embeddings": 4096}}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert context_of(tmp_path) == 4096


def test_limits_over_the_context_are_refused_before_the_weights_are_read(tmp_path):
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 4096}')  # a folder without weights
    with pytest.raises(ValueError, match=r"a.b \+ c = 4,097 is over the model's context of 4,096: lower them"):
        load_engine(
            "transformers",
            tmp_path,
            None,
            ModelSettings(name="tiny"),
            LaunchSettings(),
            batch_size=1,
            longest=4097,
            setting="a.engine",
            limits="a.b + c",
        )
