"""The bundled model is what transformers itself reads from the file."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from qwenlong_core.bundled import bundled_file, bundled_tokenizer
from qwenlong_core.bundled_weights import bundled_model

pytestmark = pytest.mark.slow


def test_weights_config_and_stop_tokens_are_those_of_transformers() -> None:
    file = bundled_file()
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    ours = bundled_model()
    wanted = theirs.state_dict()
    assert ours.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in ours.state_dict().items())
    unused = {
        "_name_or_path",
        "_model_name_or_path",
        "quantization_config",
        "unk_token_id",
        "torch_dtype",
        "dtype",
        "architectures",
    }
    assert {key: value for key, value in theirs.config.to_dict().items() if key not in unused} == {
        key: value for key, value in ours.config.to_dict().items() if key not in unused
    }
    assert ours.generation_config.eos_token_id == theirs.generation_config.eos_token_id == 2


def test_the_tokenizer_is_written_as_theirs_is(tmp_path: Path) -> None:
    file = bundled_file()
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(tmp_path / "theirs")
    bundled_tokenizer().save_pretrained(tmp_path / "ours")
    files = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert all((tmp_path / "theirs" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes() for name in files)
