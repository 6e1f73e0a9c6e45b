"""A model that a person named, brought to this machine: fetched, imported or taken where it lies.

Beside the references of :mod:`qwenlong.tasks.references`, a model is named by

    path/to/folder                 a transformers folder
    smollm2-135m, tiny             bundled with the installation
    owner/name, owner/name@rev     a hub id
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from qwenlong.tasks.references import BadReference, InRegistry, InStore, artifact_in, find_registered, parse
from qwenlong.tasks.results import publish, remember, write_job
from qwenlong.tasks.specs import base_stage
from qwenlong.tasks.store import open_store
from qwenlong_core.base_tokenizer import base_tokenizer
from qwenlong_core.bundled import BUNDLED
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.artifacts import ArtifactRef, Manifest, verify
from qwenlong_core.store.files import MANIFEST

_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?")
_FEWEST_DIGITS = 6
"""Of a digest after ``KIND/``: with fewer, a hub id such as ``owner/bed`` would read as an artifact."""


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
    """The model that ``given`` names; it is fetched or imported if it is not on this machine yet.

    Raises:
        BadReference: there is no such model; the message lists what a reference may be.
        ArtifactError: the artifact is damaged, or the store cannot be used.
        ConnectionError: a hub id cannot be fetched.
    """
    require_model_name(given)
    if _is_whole(settings, given):
        return _local(given, Path(given))
    store = open_store(settings)
    wanted = _parse(given)
    if isinstance(wanted, InRegistry):
        found = find_registered(settings.tracking, wanted)
        name, folder = f"{found.name}-v{found.version}", store.fetch(found.model)
        return Model(given=given, name=name, folder=folder, artifact=found.model, evaluation=found.evaluation)
    if wanted is not None:
        ref = artifact_in(store, wanted)
        return Model(given=given, name=f"{ref.kind}-{ref.short}", folder=store.fetch(ref), artifact=ref)
    ref = _import(settings, given)
    name = given.rstrip("/").rpartition("/")[2].replace("@", "-")
    return Model(given=given, name=name, folder=store.fetch(ref), artifact=ref)


def require_model_name(given: str) -> None:
    """Refuse what cannot name a model, before anything is loaded or read.

    Raises:
        BadReference: it is no folder and no reference; the message lists what a reference may be.
    """
    if not (Path(given).is_dir() or _parse(given) is not None or _is_public(given)):
        raise BadReference(
            f"{given!r} names no model: give a folder, {' or '.join(BUNDLED)}, a hub id (owner/name), an artifact "
            "(model/DIGEST) or models:/NAME@ALIAS"
        )


def resolve_tokenizer(settings: Settings, given: str) -> Model:
    """Like :func:`resolve_model`, for a model whose weights a server holds.

    Of a bundled model, a hub id or a folder whose chat template is to be changed only the tokenizer is taken.
    """
    local = Path(given).is_dir()
    if _is_whole(settings, given) or (not local and (_parse(given) is not None or not _is_public(given))):
        return resolve_model(settings, given)
    name = given.partition("@")[0]
    folder = Path(settings.storage.work_dir) / "tokenizers" / given.replace("/", "--")
    try:
        tokenizer = base_tokenizer(_model_settings(settings, given))
    except OSError as error:
        raise ConnectionError(
            f"{given!r}: its tokenizer could not be loaded from the hub ({error}); without network, give a folder that "
            "holds it"
        ) from error
    tokenizer.save_pretrained(folder)
    return Model(given=given, name=name.rpartition("/")[2], folder=folder)


def _parse(given: str) -> InRegistry | InStore | None:
    """:func:`~qwenlong.tasks.references.parse`, but an artifact must be named with its kind, as a model's name is
    free text."""
    wanted = parse(given)
    if isinstance(wanted, InStore) and (wanted.kind is None or len(wanted.digest) < _FEWEST_DIGITS):
        return None
    return wanted


def _is_public(given: str) -> bool:
    """Whether anybody can get the model: it is bundled with the installation, or on the hub."""
    return given in BUNDLED or _HUB_ID.fullmatch(given) is not None


def _is_whole(settings: Settings, given: str) -> bool:
    """Whether it is a folder that needs no import: an artifact, or one whose chat template stays as it is."""
    folder, model = Path(given), settings.model
    as_it_is = model.chat_template is None and model.enable_thinking is None
    return folder.is_dir() and (as_it_is or (folder / MANIFEST).is_file())


def _model_settings(settings: Settings, given: str) -> ModelSettings:
    """The settings of the model, with the name and revision that ``given`` holds."""
    if given == settings.model.name:
        return settings.model
    name, _, revision = (given, "", "") if Path(given).is_dir() else given.partition("@")
    return settings.model.model_copy(update={"name": name, "revision": revision or None})


def _local(given: str, folder: Path) -> Model:
    if not (folder / "config.json").is_file():
        raise BadReference(f"{given}: the folder holds no config.json, so it is no transformers model: name another")
    name, artifact = folder.resolve().name, None
    if (folder / MANIFEST).is_file():
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
        verify(folder, manifest)
        artifact = ArtifactRef(kind=manifest.kind, uri=folder.resolve().as_uri(), sha256=manifest.digest)
        name = f"{artifact.kind}-{artifact.short}"
    return Model(given=given, name=name, folder=folder, artifact=artifact)


def _import(settings: Settings, given: str) -> ArtifactRef:
    """The artifact of the base stage for a bundled model or a hub id; made now if the store has none."""
    from qwenlong.tasks.stage import stage_fingerprint  # loads MLflow
    from qwenlong_core.models import import_base  # loads torch

    settings = settings.model_copy(update={"model": _model_settings(settings, given)})
    # Made in this process, so under this interpreter's libraries.
    spec, store = base_stage(settings).model_copy(update={"python": None}), open_store(settings)
    key = stage_fingerprint(spec, {})
    if record := store.lookup(spec.cached_as, key):
        return record.ref
    Path(settings.storage.work_dir).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="import-", dir=settings.storage.work_dir) as scratch:
        output = Path(scratch)
        import_base(settings.model, output)
        write_job(spec, output)
        ref = publish(store, spec, {}, output)
    # Under no profile: a profile's pipeline starts on its own newest base, and this is not it.
    remember(store, spec, key, ref, profile="")
    return ref
