from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from qwenlong_core.bundled import bundled_tokenizer


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with SmolLM2's real tokenizer: all that preparation needs of a policy."""
    folder = tmp_path_factory.mktemp("policy")
    bundled_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(policy_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(policy_folder)
