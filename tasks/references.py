"""What a person may mean by a model: one place turns REF into a folder and what is known of it.

REF is one of

    models:/qwenlong@champion      an alias of the registry; models:/qwenlong/3 is version 3
    model/0a1b2c3d4e5f             an artifact by kind and the first digits of its digest, or by its uri
    path/to/folder                 a transformers folder
    smollm2-135m, tiny             bundled with the installation
    owner/name, owner/name@rev     a hub id
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qwenlong.tasks.specs import base_stage
from qwenlong.tasks.stage import stage_fingerprint
from qwenlong.tasks.store import open_store
from qwenlong_core.bundled import BUNDLED, bundled_tokenizer
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.artifacts import ArtifactError, ArtifactRef, Manifest, describe, now, verify
from qwenlong_core.store.files import MANIFEST, digest_json
from qwenlong_core.store.fingerprint import code_digest
from qwenlong_core.store.protocol import StageRecord, Store, refs_in

_REGISTRY = re.compile(r"models:/(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>\d+))")
_ARTIFACT = re.compile(r"(?:[a-z0-9+]+://.*/)?(?P<kind>[a-z]+)/(?P<digest>[0-9a-f]{6,64})/?")
_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that a reference led to."""

    given: str
    name: str
    """Short, for folders and tables."""
    folder: Path
    """Its files, every digest checked where there is a manifest."""
    artifact: ArtifactRef | None = None
    evaluation: ArtifactRef | None = None
    """The evaluation it was registered with."""


def resolve_model(settings: Settings, given: str) -> Model:
    """The model that ``given`` names, fetched or imported where it is not on this machine yet.

    Raises:
        ValueError: there is no such model; it says what a reference may be.
        ArtifactError: the artifact is not in the store, or is damaged.
        ConnectionError: a hub id cannot be fetched.
    """
    if given.startswith("models:/"):
        return _registered(settings, given)
    folder = Path(given)
    if folder.is_dir():
        return _local(given, folder)
    if match := _ARTIFACT.fullmatch(given):
        ref = find_artifact(open_store(settings), match["kind"], match["digest"])
        return Model(given=given, name=f"{ref.kind}-{ref.short}", folder=open_store(settings).fetch(ref), artifact=ref)
    if given in BUNDLED or _HUB_ID.fullmatch(given):
        ref = _imported(settings, given)
        name = given.rpartition("/")[2].replace("@", "-")
        return Model(given=given, name=name, folder=open_store(settings).fetch(ref), artifact=ref)
    raise ValueError(
        f"--model {given!r} is no folder and no reference: give a folder, {' or '.join(BUNDLED)}, a hub id"
        " (owner/name), an artifact (model/DIGEST) or models:/NAME@ALIAS"
    )


def resolve_tokenizer(settings: Settings, given: str) -> Model:
    """Like :func:`resolve_model` where a server holds the weights: of a bundled model or a hub id only the
    tokenizer is brought here."""
    if Path(given).is_dir() or not (given in BUNDLED or _HUB_ID.fullmatch(given)) or _ARTIFACT.fullmatch(given):
        return resolve_model(settings, given)
    name, _, revision = given.partition("@")
    folder = Path(settings.storage.work_dir) / "tokenizers" / given.replace("/", "--")
    try:
        tokenizer = bundled_tokenizer() if given in BUNDLED else _hub_tokenizer(name, revision)
    except OSError as error:
        raise ConnectionError(
            f"--model {given!r}: its tokenizer could not be loaded from the hub ({error}); without network give a"
            " folder that holds it"
        ) from error
    tokenizer.save_pretrained(folder)
    return Model(given=given, name=name.rpartition("/")[2], folder=folder)


def _hub_tokenizer(name: str, revision: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name, revision=revision or "main")


def find_artifact(store: Store, kind: str, digest: str) -> ArtifactRef:
    """The artifact of this kind whose digest begins like this.

    Raises:
        ArtifactError: there is none, or more than one.
    """
    found = [ref for ref in refs_in(store.listing(), store.uri) if ref.kind == kind and ref.sha256.startswith(digest)]
    if len(found) > 1:
        raise ArtifactError(
            f"{kind}/{digest} fits {len(found)} artifacts: give more of the digest, such as"
            f" {kind}/{found[0].sha256[:20]}"
        )
    if not found:
        raise ArtifactError(f"there is no artifact {kind}/{digest} in {store.uri}: name another, or another --profile")
    return found[0]


def evaluation_folder(store: Store, given: str) -> Path:
    """The folder of an evaluation: a path, or an artifact ``evaluation/DIGEST``.

    Raises:
        ValueError: neither.
        ArtifactError: there is no such artifact.
    """
    if Path(given).is_dir():
        return Path(given)
    kind, slash, digest = given.partition("/")
    if slash and kind == "evaluation":
        return store.fetch(find_artifact(store, kind, digest))
    raise ValueError(f"{given!r} is no folder and no artifact evaluation/DIGEST: name a finished evaluation")


def _local(given: str, folder: Path) -> Model:
    if not (folder / "config.json").is_file():
        raise ValueError(f"--model {given}: the folder holds no config.json, so no transformers model: name another")
    name, artifact = folder.resolve().name, None
    if (folder / MANIFEST).is_file():
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
        verify(folder, manifest)
        artifact = ArtifactRef(kind=manifest.kind, uri=folder.resolve().as_uri(), sha256=manifest.digest)
        name = f"{artifact.kind}-{artifact.short}"
    return Model(given=given, name=name, folder=folder, artifact=artifact)


def _registered(settings: Settings, given: str) -> Model:
    from qwenlong.tasks.tracking.registry import by_alias, by_version  # brings MLflow in

    match = _REGISTRY.fullmatch(given)
    if match is None:
        raise ValueError(f"--model {given!r}: a registry reference is models:/NAME@ALIAS or models:/NAME/VERSION")
    tracking = settings.tracking.model_copy(update={"registered_model": match["name"]})
    found = by_alias(tracking, match["alias"]) if match["alias"] else by_version(tracking, match["version"])
    if found is None:
        raise ValueError(
            f"--model {given}: the registry at {tracking.uri} has no such model: run the pipeline, or name another"
        )
    folder = open_store(settings).fetch(found.model)
    name = f"{found.name}-v{found.version}"
    return Model(given=given, name=name, folder=folder, artifact=found.model, evaluation=found.evaluation)


def _imported(settings: Settings, given: str) -> ArtifactRef:
    """The base stage's artifact of a bundled model or a hub id, made now if the store has none."""
    from qwenlong_core.models import import_base

    if given != settings.model.name:
        name, _, revision = given.partition("@")
        settings = settings.model_copy(
            update={"model": settings.model.model_copy(update={"name": name, "revision": revision or None})}
        )
    spec, store = base_stage(settings), open_store(settings)
    key = stage_fingerprint(spec, {})
    if record := store.lookup(spec.family, key):
        return record.ref
    Path(settings.storage.work_dir).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="import-", dir=settings.storage.work_dir) as scratch:
        import_base(settings.model, Path(scratch))
        (Path(scratch) / "job.json").write_text(json.dumps(spec.job, indent=2))
        code = code_digest((spec.module,))
        manifest = describe(
            Path(scratch), spec.kind, parents={}, settings_digest=digest_json(spec.job), code_digest=code
        )
        ref = store.publish(Path(scratch), manifest)
    # Under no profile: what a profile's pipeline starts on is its own newest base, not this one.
    entry = StageRecord(stage=spec.family, fingerprint=key, ref=ref, profile="", settings=spec.job, created_at=now())
    store.record(entry)
    return ref
