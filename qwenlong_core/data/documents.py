"""A person's own document: one file of text."""

from __future__ import annotations

import json
from pathlib import Path


def read_document(path: Path) -> str:
    """The text of a plain text, markdown or JSON file, as it is written.

    Raises:
        ValueError: there is no such file, it is empty, no text, or broken JSON; it says what to do.
    """
    if not path.is_file():
        raise ValueError(f"--document {path}: {'a folder, name one file' if path.is_dir() else 'no such file'}")
    content = path.read_bytes()
    try:
        if b"\0" in content:
            raise UnicodeDecodeError("utf-8", content, content.index(b"\0"), content.index(b"\0") + 1, "a zero byte")
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--document {path} is not UTF-8 text (byte {error.start:,}: {error.reason}): convert it to text first, a"
            " PDF for example with `pdftotext`"
        ) from error
    if not text.strip():
        raise ValueError(f"--document {path} is empty: there is nothing to ask about")
    if path.suffix.lower() == ".json":
        _check_json(path, text)
    return text


def _check_json(path: Path, text: str) -> None:
    try:
        json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"--document {path} is not valid JSON ({error}): mend it, or name it .txt to ask about it as it is"
        ) from error
