"""Whether ``model.name`` names a model at all: looked at before anything runs, without loading weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qwenlong_core.settings.model import ModelSettings

_WEIGHTS = ("*.safetensors", "*.bin")


def require_model_files(folder: Path) -> None:
    """Refuse a folder whose ``config.json`` or weights transformers cannot read; of safetensors the headers are read.

    Raises:
        ValueError: naming the file.
    """
    from safetensors import SafetensorError, safe_open

    from qwenlong_core.auto import AutoConfig  # takes seconds to load

    try:
        AutoConfig.from_pretrained(folder)
    except Exception as error:  # whatever the values of a broken config lead to
        raise _unusable(folder, f"config.json cannot be used ({' '.join(str(error).split())})") from error
    weights = sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern))
    if not weights:
        raise _unusable(folder, f"there is no file of weights ({', '.join(_WEIGHTS)})")
    for path in weights:
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="numpy"):
                    pass
        except (SafetensorError, OSError) as error:
            raise _unusable(folder, f"{path.name} is damaged or cut off ({error})") from error


def _unusable(folder: Path, what: str) -> ValueError:
    return ValueError(
        f"model.name={str(folder)!r}: {what}: name a whole folder with config.json, weights and tokenizer, or a hub id"
    )


def refuse_unknown(settings: ModelSettings, error: BaseException) -> None:
    """Refuse a model that the hub says it does not have, or not for everybody; other errors may pass.

    Args:
        error: what the hub's client or transformers raised.

    Raises:
        ValueError: naming the model and the revision.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for cause in _causes(error):
        if isinstance(cause, LocalEntryNotFoundError):  # no network, and no copy
            return
        if isinstance(cause, GatedRepoError):
            what = "its owner gives it to those who ask: accept its terms on the hub, and export HF_TOKEN"
        elif isinstance(cause, RevisionNotFoundError):
            what = f"the hub has no revision {settings.revision!r} of it: correct model.revision"
        elif isinstance(cause, RepositoryNotFoundError):
            what = "the hub has no such model, or shows it only with a key (HF_TOKEN), and there is no such folder"
        elif isinstance(cause, EntryNotFoundError):
            what = f"the hub has it, but no file that transformers needs ({cause}): name another model"
        elif isinstance(cause, HFValidationError):
            what = "there is no such folder, and no hub id has this form (OWNER/NAME)"
        else:
            continue
        raise ValueError(f"model.name={settings.name!r}: {what}") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
