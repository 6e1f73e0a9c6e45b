"""The bucket store against a real S3 server on loopback."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from bucket_stores import MIB, another, make_folder, manifest_of, publish

from qwenlong.tasks.s3.store import S3Store
from qwenlong_core.settings.running import S3Settings
from qwenlong_core.store.artifacts import ArtifactError, ArtifactRef, Damaged, Manifest, now
from qwenlong_core.store.files import MANIFEST
from qwenlong_core.store.protocol import StageRecord


def record(ref: ArtifactRef, fingerprint: str = "f", profile: str = "p") -> StageRecord:
    return StageRecord(stage="sft", fingerprint=fingerprint, ref=ref, profile=profile, settings={}, created_at=now())


def keys(raw, store: S3Store) -> set[str]:
    listed = raw.list_objects_v2(Bucket=store.bucket).get("Contents", [])
    return {item["Key"] for item in listed}


def test_files_small_and_in_parts_come_back_with_their_digests(store, tmp_path):
    content = os.urandom(13 * MIB + 5)  # three parts, the last one short
    ref = publish(store, make_folder(tmp_path / "out", content), data="abc")
    fetched = store.fetch(ref)
    assert (fetched / "model.safetensors").read_bytes() == content
    assert (fetched / "empty.txt").read_bytes() == b"" and (fetched / "sub" / "config.json").read_text() == "{}"
    assert Manifest.model_validate_json((fetched / MANIFEST).read_text()).parents == {"data": "abc"}
    assert ref.uri == f"{store.uri}/artifacts/model/{ref.sha256}"


def test_the_bucket_holds_plain_files_under_the_project_and_no_probe(store, raw, tmp_path):
    ref = publish(store, make_folder(tmp_path / "out"))
    below = f"project/artifacts/model/{ref.sha256}"
    note = store.manifest(ref).files["metrics.jsonl"].sha256
    names = ("model.safetensors", "sub/config.json", "empty.txt", f".notes/{note}/metrics.jsonl", MANIFEST)
    assert keys(raw, store) == {f"{below}/{name}" for name in names}
    assert raw.get_object(Bucket=store.bucket, Key=f"{below}/model.safetensors")["Body"].read() == b"weights"


def test_publishing_again_adopts_and_sends_nothing(store, raw, tmp_path):
    folder = make_folder(tmp_path / "out")
    ref = publish(store, folder)
    before = {key: raw.head_object(Bucket=store.bucket, Key=key)["LastModified"] for key in keys(raw, store)}
    (folder / "metrics.jsonl").write_text('{"seconds": 2}')
    assert publish(store, folder) == ref
    assert {key: raw.head_object(Bucket=store.bucket, Key=key)["LastModified"] for key in keys(raw, store)} == before


def test_without_its_manifest_an_artifact_does_not_exist(store, raw, tmp_path):
    folder = make_folder(tmp_path / "out")
    ref = publish(store, folder)
    store.record(record(ref))
    assert store.lookup("sft", "f").ref == ref
    raw.delete_object(Bucket=store.bucket, Key=f"project/artifacts/model/{ref.sha256}/{MANIFEST}")
    assert store.manifest(ref) is None and store.lookup("sft", "f") is None and store.latest("sft", "p") is None
    with pytest.raises(ArtifactError, match="re-run the stage"):
        store.fetch(ref)
    assert publish(store, folder) == ref and store.lookup("sft", "f").ref == ref


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_file_is_refused_and_mended_by_publishing_again(store, raw, tmp_path, damage):
    folder = make_folder(tmp_path / "out")
    ref = publish(store, folder)
    key = {"Bucket": store.bucket, "Key": f"project/artifacts/model/{ref.sha256}/model.safetensors"}
    if damage == "remove":
        raw.delete_object(**key)
    else:
        kept = raw.head_object(**key)["Metadata"]
        raw.put_object(**key, Body=b"weightz" if damage == "flip" else b"wei", Metadata=kept)
    with pytest.raises(Damaged, match=r"model\.safetensors"):
        store.fetch(ref)
    assert not list((tmp_path / "cache" / "artifacts" / "model").glob("*"))
    assert publish(store, folder) == ref
    assert (store.fetch(ref) / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("text", ["not json", '{"kind": "model"}', "other"])
def test_what_stands_in_the_manifests_place_is_replaced(store, raw, tmp_path, text):
    folder = make_folder(tmp_path / "out")
    ref = publish(store, folder)
    if text == "other":
        text = manifest_of(folder, another="parent").model_dump_json()
    raw.put_object(Bucket=store.bucket, Key=f"project/artifacts/model/{ref.sha256}/{MANIFEST}", Body=text.encode())
    assert store.manifest(ref) is None
    assert publish(store, folder) == ref and store.fetch(ref)


def test_a_manifest_that_names_a_file_outside_its_artifact_is_refused(store, raw, tmp_path):
    ref = publish(store, make_folder(tmp_path / "out"))
    key = f"project/artifacts/model/{ref.sha256}/{MANIFEST}"
    tree = json.loads(raw.get_object(Bucket=store.bucket, Key=key)["Body"].read())
    tree["files"]["../../escaped"] = tree["files"].pop("sub/config.json")
    store._put(key, json.dumps(tree).encode())
    assert store.manifest(ref) is None
    with pytest.raises(ArtifactError):
        store.fetch(ref)


def test_a_damaged_copy_in_the_cache_is_brought_again(store, tmp_path):
    ref = publish(store, make_folder(tmp_path / "out"))
    elsewhere = another(store, tmp_path / "elsewhere")
    path = elsewhere.cache.root / "artifacts" / "model" / ref.sha256 / "model.safetensors"
    elsewhere.cache.admit(store.manifest(ref), lambda folder: make_folder(folder / "x") and _spread(folder))
    path.write_bytes(b"weightz")
    assert elsewhere.fetch(ref) and path.read_bytes() == b"weights"


def _spread(folder: Path) -> None:
    for path in sorted((folder / "x").iterdir()):
        path.rename(folder / path.name)
    (folder / "x").rmdir()


def test_what_is_cached_is_read_without_the_server(store, tmp_path, s3_server):
    ref = publish(store, make_folder(tmp_path / "out"))
    folder = store.fetch(ref)
    offline = S3Store(store.uri, S3Settings(endpoint_url="http://127.0.0.1:9"), tmp_path / "cache")
    assert offline.fetch(ref) == folder


def test_latest_is_the_newest_record_of_the_profile(store, tmp_path):
    refs = []
    for text in (b"one", b"two"):
        refs.append(publish(store, make_folder(tmp_path / text.decode(), text)))
        store.record(record(refs[-1], fingerprint=text.decode()))
    store.record(record(refs[0], fingerprint="other", profile="another"))
    assert store.latest("sft", "p").ref == refs[1]
    assert store.latest("sft", "another").ref == refs[0]
    assert store.latest("sft", "none") is None and store.latest("grpo", "p") is None


def test_a_file_that_changes_after_it_was_described_is_not_published(store, raw, tmp_path):
    for size in (7, 12 * MIB):
        folder = make_folder(tmp_path / str(size), os.urandom(size))
        manifest = manifest_of(folder)
        (folder / "model.safetensors").write_bytes(os.urandom(size))
        with pytest.raises(ArtifactError, match="changed since"):
            store.publish(folder, manifest)
        assert store.manifest(store._ref(manifest)) is None
    assert not raw.list_multipart_uploads(Bucket=store.bucket).get("Uploads")


def publish_at_once(store_arguments: tuple, folder: Path, barrier) -> None:
    store = S3Store(*store_arguments)
    manifest = manifest_of(folder)
    assert store.abilities.create_only
    barrier.wait()
    store.publish(folder, manifest)


def test_two_writers_of_one_artifact_give_one_whole_artifact(store, raw, tmp_path):
    content = os.urandom(11 * MIB)
    folders = [make_folder(tmp_path / name, content, note=json.dumps({"writer": name})) for name in "ab"]
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    arguments = (store.uri, store.s3, tmp_path / "cache")
    writers = [context.Process(target=publish_at_once, args=(arguments, folder, barrier)) for folder in folders]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    ref = store._ref(manifest_of(folders[0]))
    fetched = store.fetch(ref)
    assert (fetched / "model.safetensors").read_bytes() == content
    assert json.loads((fetched / "metrics.jsonl").read_text())["writer"] in "ab"
    assert sum(key.endswith(MANIFEST) for key in keys(raw, store)) == 1


@pytest.mark.parametrize("there", ["whole", "garbage"])
def test_a_writer_that_is_second_at_the_manifest_adopts_the_first_ones(store, raw, tmp_path, there):
    """Another writer finishes between this one's last file and its manifest."""
    first, second = (make_folder(tmp_path / name, note=json.dumps({"writer": name})) for name in ("first", "second"))
    key = {"Bucket": store.bucket, "Key": f"project/artifacts/model/{manifest_of(first).digest}/{MANIFEST}"}
    overtaken = []

    def overtake(params, **_) -> None:
        if params["url_path"].endswith(MANIFEST) and not overtaken:
            overtaken.append(params["headers"]["If-None-Match"])
            if there == "whole":
                publish(another(store, tmp_path / "elsewhere"), first)
            else:
                raw.put_object(**key, Body=b"garbage")

    store.client.meta.events.register("before-call.s3.PutObject", overtake)
    ref = publish(store, second)
    assert overtaken == ["*"]
    winner = "first" if there == "whole" else "second"
    assert json.loads((store.fetch(ref) / "metrics.jsonl").read_text()) == {"writer": winner}


def test_gc_takes_nothing_from_under_a_writer_that_finds_old_remains(store, tmp_path, monkeypatch):
    """`gc` deletes what an interrupted writer left long ago, just before another writer puts its manifest."""
    monkeypatch.setattr("qwenlong.tasks.s3.transfer._RESUMED", timedelta(0))  # the remains are old
    folder = make_folder(tmp_path / "out")
    ref = publish(store, folder)
    store.client.delete_object(Bucket=store.bucket, Key=f"project/artifacts/model/{ref.sha256}/{MANIFEST}")
    remains = store.listing()
    time.sleep(2.1)  # the server tells the time of writing in whole seconds

    def collect(params, **_) -> None:
        if params["url_path"].endswith(MANIFEST):
            for stored in remains:
                store.remove(stored)

    store.client.meta.events.register("before-call.s3.PutObject", collect)
    assert publish(store, folder) == ref
    assert store.damage(ref) == []


def test_check_says_what_the_server_does(store):
    assert "checks SHA-256" in store.check() and "create-only" in store.check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "AWS_ACCESS_KEY_ID"),
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_EC2_METADATA_DISABLED": "true"},
            "no complete credentials",
        ),
        ({"bucket": "not-there"}, "no such bucket"),
        ({"endpoint": "http://127.0.0.1:9"}, "127.0.0.1:9"),
        ({"AWS_PROFILE": "nobody"}, "nobody"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_with_the_mend(bucket, settings, tmp_path, monkeypatch, change, message):
    for name in [name for name in change if name.startswith("AWS_")]:
        monkeypatch.delenv(name) if change[name] is None else monkeypatch.setenv(name, change[name])
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    at = settings.model_copy(update={"endpoint_url": change.get("endpoint", settings.endpoint_url)})
    with pytest.raises(ArtifactError, match=message):
        S3Store(f"s3://{change.get('bucket', bucket)}/project", at, tmp_path / "cache").check()


def test_an_endpoint_with_credentials_from_the_environment_is_refused(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://someone:planted-secret@127.0.0.1:9")
    with pytest.raises(ArtifactError, match="carries credentials") as refusal:
        S3Store(f"s3://{bucket}", S3Settings(), tmp_path / "cache")
    assert "planted-secret" not in str(refusal.value)


def claim_at_once(store_arguments: tuple, number: int, barrier, said) -> None:
    store = S3Store(*store_arguments)
    assert store.abilities.create_only
    barrier.wait()
    said.put(store.claim("champion/m/1", f"writer {number}"))


def test_of_four_processes_that_claim_a_name_at_once_one_wins_and_all_read_its_text(store, tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, said = context.Barrier(4), context.Queue()
    arguments = (store.uri, store.s3, tmp_path / "cache")
    claimers = [context.Process(target=claim_at_once, args=(arguments, n, barrier, said)) for n in range(4)]
    for claimer in claimers:
        claimer.start()
    answers = {said.get(timeout=120) for _ in claimers}
    for claimer in claimers:
        claimer.join()
    assert len(answers) == 1 and store.claim("champion/m/1", "later") in answers


def test_no_key_is_logged(store, tmp_path, caplog):
    caplog.set_level("DEBUG")
    publish(store, make_folder(tmp_path / "out"))
    assert "botocore" in caplog.text
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in caplog.text
