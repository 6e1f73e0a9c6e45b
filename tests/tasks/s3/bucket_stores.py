"""What the tests of the bucket store share: a stage's output, and how it is published."""

from __future__ import annotations

from pathlib import Path

from qwenlong.tasks.s3.store import S3Store
from qwenlong_core.store.artifacts import ArtifactRef, Manifest, describe

MIB = 1024**2


def make_folder(root: Path, content: bytes = b"weights", note: str = "{}") -> Path:
    (root / "sub").mkdir(parents=True)
    (root / "model.safetensors").write_bytes(content)
    (root / "sub" / "config.json").write_text("{}")
    (root / "empty.txt").write_text("")
    (root / "metrics.jsonl").write_text(note)
    return root


def manifest_of(folder: Path, **parents: str) -> Manifest:
    return describe(folder, "model", parents=parents, settings_digest="s", code_digest="c")


def publish(store: S3Store, folder: Path, **parents: str) -> ArtifactRef:
    return store.publish(folder, manifest_of(folder, **parents))


def another(store: S3Store, cache: Path) -> S3Store:
    """The same bucket seen from a machine with an empty disk."""
    return S3Store(store.uri, store.s3, cache)
