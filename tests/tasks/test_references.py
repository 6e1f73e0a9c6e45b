"""References are parsed in one place, and looked up in a real store and a real registry."""

import json

import pytest

from qwenlong.tasks.models import resolve_model, resolve_tokenizer
from qwenlong.tasks.references import BadReference, InRegistry, InStore, artifact_in, parse
from qwenlong.tasks.store import open_store
from qwenlong.tasks.tracking.registry import register
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.store.artifacts import ArtifactError, describe


@pytest.fixture
def settings(tmp_path):
    places = {
        "storage.uri": tmp_path / "store",
        "storage.work_dir": tmp_path / "work",
        "tracking.uri": f"sqlite:///{tmp_path}/m.db",
    }
    return load_settings("smoke", [f"{key}={value}" for key, value in places.items()])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("models:/qwenlong@champion", InRegistry("qwenlong", "champion", None)),
        ("models:/qwenlong/3", InRegistry("qwenlong", None, "3")),
        ("model/0a1b2c", InStore("model", "0a1b2c")),
        ("s3://bucket/team/artifacts/model/0a1b2c", InStore("model", "0a1b2c")),
        ("file:///home/me/artifacts/model/0a1b2c/", InStore("model", "0a1b2c")),
        ("0a1b", InStore(None, "0a1b")),
        ("tiny", None),
        ("owner/name", None),
        ("owner/deadbeef@main", None),
        ("some/folder/deadbeef", None),
    ],
)
def test_what_a_reference_says(given, said):
    assert parse(given) == said


def test_a_short_hub_id_is_not_taken_for_an_artifact(settings, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="could not be loaded from the hub"):
        resolve_model(settings, "owner/bed")


def publish(settings, tmp_path, kind="model", text="a"):
    folder = tmp_path / f"{kind}-{text}"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"note": text}))
    return open_store(settings).publish(folder, describe(folder, kind, parents={}, settings_digest="", code_digest=""))


def test_an_artifact_by_the_beginning_of_its_digest_or_by_its_uri(settings, tmp_path):
    ref = publish(settings, tmp_path)
    for given in (f"model/{ref.short}", f"model/{ref.sha256}", ref.uri):
        found = resolve_model(settings, given)
        assert found.artifact.sha256 == ref.sha256 and json.loads((found.folder / "config.json").read_text()) == {
            "note": "a"
        }
    with pytest.raises(BadReference, match="there is no artifact model/000000"):
        resolve_model(settings, "model/000000")


def test_a_digest_that_fits_two_is_refused(settings, tmp_path):
    publish(settings, tmp_path, text="a")
    publish(settings, tmp_path, text="b")
    with pytest.raises(BadReference, match="fits 2 artifacts: give more of the digest"):
        artifact_in(open_store(settings), InStore("model", ""))


def test_an_alias_and_a_version_of_the_registry(settings, tmp_path):
    model, evaluation = publish(settings, tmp_path), publish(settings, tmp_path, "evaluation")
    register(settings.tracking, {"model": model, "evaluation": evaluation}, None, tmp_path)
    for given in ("models:/qwenlong@challenger", "models:/qwenlong/1"):
        found = resolve_model(settings, given)
        assert (found.artifact.sha256, found.evaluation.sha256, found.name) == (
            model.sha256,
            evaluation.sha256,
            "qwenlong-v1",
        )
    there, none = "there is models:/qwenlong@challenger", "run the pipeline, or name another"
    missing = {"models:/qwenlong@champion": there, "models:/qwenlong/7": there, "models:/other@challenger": none}
    for given, mend in missing.items():
        with pytest.raises(BadReference, match=f"has no such model: {mend}"):
            resolve_model(settings, given)
    with pytest.raises(BadReference, match="models:/NAME@ALIAS or models:/NAME/VERSION"):
        resolve_model(settings, "models:/qwenlong")


def test_a_folder_is_taken_as_it_is_and_a_damaged_artifact_is_not(settings, tmp_path):
    ref = publish(settings, tmp_path)
    plain = resolve_model(settings, str(tmp_path / "model-a"))
    assert plain.artifact is None and plain.name == "model-a"
    folder = open_store(settings).fetch(ref)
    assert resolve_model(settings, str(folder)).artifact.sha256 == ref.sha256
    (folder / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="does not match the manifest"):
        resolve_model(settings, str(folder))
    with pytest.raises(BadReference, match=r"holds no config\.json"):
        resolve_model(settings, str(tmp_path))


def test_a_bundled_model_is_imported_once_and_is_no_profiles_base(settings):
    first = resolve_model(settings, "tiny")
    assert (first.folder / "model.safetensors").is_file() and first.artifact.kind == "model"
    assert resolve_model(settings, "tiny").folder == first.folder
    assert open_store(settings).latest("base", settings.profile) is None


def test_for_a_server_only_the_tokenizer_is_fetched(settings):
    found = resolve_tokenizer(settings, "smollm2-135m")
    assert (found.folder / "tokenizer.json").is_file() and not list(found.folder.glob("*.safetensors"))


def test_a_hub_that_cannot_be_reached_says_so(settings, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for resolve in (resolve_model, resolve_tokenizer):
        with pytest.raises(ConnectionError, match="could not be loaded from the hub"):
            resolve(settings, "no-such-owner/no-such-model")
