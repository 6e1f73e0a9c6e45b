"""Artifacts: what is published is whole and verified, and what is not whole does not count."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from qwenlong_core.store.artifacts import ArtifactError, ArtifactRef, Manifest, describe, now
from qwenlong_core.store.files import MANIFEST, FileEntry, digest_file
from qwenlong_core.store.local import LocalStore
from qwenlong_core.store.protocol import StageRecord, check_writable


@pytest.fixture
def store(tmp_path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def make_folder(root: Path, content: str = "weights") -> Path:
    (root / "sub").mkdir(parents=True)
    (root / "model.safetensors").write_text(content)
    (root / "sub" / "config.json").write_text("{}")
    return root


def manifest_of(folder: Path, **parents: str) -> Manifest:
    return describe(folder, "model", parents=parents, settings_digest="s", code_digest="c")


def record(ref: ArtifactRef, fingerprint: str = "f", profile: str = "p") -> StageRecord:
    return StageRecord(stage="sft", fingerprint=fingerprint, ref=ref, profile=profile, settings={}, created_at=now())


def test_published_files_come_back_with_their_digests(store, tmp_path):
    folder = make_folder(tmp_path / "out")
    ref = store.publish(folder, manifest_of(folder, data="abc"))
    fetched = store.fetch(ref)
    assert (fetched / "model.safetensors").read_text() == "weights"
    manifest = Manifest.model_validate_json((fetched / MANIFEST).read_text())
    assert manifest.files["sub/config.json"].sha256 == digest_file(folder / "sub" / "config.json")
    assert manifest.parents == {"data": "abc"} and manifest.digest == ref.sha256


def test_the_digest_covers_content_and_parents_but_not_time(tmp_path):
    first, second, other = (make_folder(tmp_path / name, text) for name, text in [("a", "w"), ("b", "w"), ("c", "x")])
    a, b = manifest_of(first), manifest_of(second)
    assert a.created_at != b.created_at and a.digest == b.digest
    assert manifest_of(other).digest != a.digest
    assert manifest_of(first, data="d").digest != a.digest


def test_publishing_twice_adopts_the_first(store, tmp_path):
    folder = make_folder(tmp_path / "out")
    first = store.publish(folder, manifest_of(folder))
    created = store.manifest(first).created_at
    assert store.publish(folder, manifest_of(folder)) == first
    assert store.manifest(first).created_at == created


def test_a_file_in_the_store_is_as_young_as_its_publication(store, tmp_path):
    """To `gc`, a model made years ago must not look like what an interrupted writer left."""
    folder = make_folder(tmp_path / "out")
    os.utime(folder / "model.safetensors", (1, 1))
    begun = time.time() - 10
    store.publish(folder, manifest_of(folder))
    assert all(stored.modified.timestamp() > begun for stored in store.listing())


def test_an_artifact_without_manifest_does_not_exist(store, tmp_path):
    folder = make_folder(tmp_path / "out")
    ref = store.publish(folder, manifest_of(folder))
    store.record(record(ref))
    assert store.lookup("sft", "f") is not None
    (store.fetch(ref) / MANIFEST).unlink()
    assert store.lookup("sft", "f") is None and store.latest("sft", "p") is None
    with pytest.raises(ArtifactError, match="re-run the stage"):
        LocalStore(store.root).fetch(ref)
    assert store.publish(folder, manifest_of(folder)) == ref  # the remains are replaced
    assert LocalStore(store.root).fetch(ref).is_dir()


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_file_is_refused(store, tmp_path, damage):
    folder = make_folder(tmp_path / "out")
    ref = store.publish(folder, manifest_of(folder))
    path = store.root / "artifacts" / "model" / ref.sha256 / "model.safetensors"
    if damage == "remove":
        path.unlink()
    else:
        path.write_text("weightz" if damage == "flip" else "wei")
    with pytest.raises(ArtifactError, match=r"model\.safetensors (does not match the manifest|is missing)"):
        LocalStore(store.root).fetch(ref)


@pytest.mark.parametrize("damage", ["flip", "no manifest"])
def test_publishing_again_mends_a_damaged_artifact(store, tmp_path, damage):
    folder = make_folder(tmp_path / "out")
    ref = store.publish(folder, manifest_of(folder))
    directory = store.root / "artifacts" / "model" / ref.sha256
    if damage == "flip":
        (directory / "model.safetensors").write_text("weightz")
    else:
        (directory / MANIFEST).unlink()
    assert store.publish(folder, manifest_of(folder)) == ref
    assert (directory / "model.safetensors").read_text() == "weights" and (directory / MANIFEST).is_file()


@pytest.mark.parametrize("damaged", [None, "model.safetensors", MANIFEST])
def test_what_another_writer_finishes_meanwhile_stays(tmp_path, damaged):
    """It publishes after this one has looked at what is there, and before this one does anything about it."""
    folder, root = make_folder(tmp_path / "out"), tmp_path / "store"
    manifest = manifest_of(folder)
    there = root / "artifacts" / "model" / manifest.digest
    if damaged:
        LocalStore(root).publish(folder, manifest)
        (there / damaged).write_text("{}")
    made: list[int] = []

    def other() -> None:
        if not made:
            LocalStore(root).publish(folder, manifest)
            made.append(there.stat().st_ino)

    class Slower(LocalStore):
        def manifest(self, ref: ArtifactRef) -> Manifest | None:
            found = super().manifest(ref)
            other()
            return found

    def fill(staging: Path) -> None:
        other()
        shutil.copytree(folder, staging, dirs_exist_ok=True)

    Slower(root).admit(manifest, fill)
    assert made == [there.stat().st_ino]
    assert len(list(there.parent.glob(".bad-*"))) == bool(damaged)


def test_notes_are_verified_but_do_not_make_the_artifact_another(tmp_path):
    digests = []
    for name, seconds in (("a", 1), ("b", 2)):
        folder = make_folder(tmp_path / name)
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "seconds": seconds}))
        manifest = manifest_of(folder)
        assert manifest.files["metrics.jsonl"].sha256 == digest_file(folder / "metrics.jsonl")
        digests.append(manifest.digest)
    assert digests[0] == digests[1]


def test_latest_is_the_newest_record_of_the_profile(store, tmp_path):
    refs = []
    for text in ("one", "two"):
        folder = make_folder(tmp_path / text, text)
        refs.append(store.publish(folder, manifest_of(folder)))
        store.record(record(refs[-1], fingerprint=text))
    store.record(record(refs[0], fingerprint="other", profile="another"))
    assert store.latest("sft", "p").ref == refs[1]
    assert store.latest("sft", "another").ref == refs[0]
    assert store.latest("sft", "none") is None


@pytest.mark.parametrize(
    "name", ["../up", "a/../../up", "/etc/passwd", "a//b", "a\\\\b", "./a", "a/", "", "..", "line\nbreak", MANIFEST]
)
def test_a_file_name_cannot_leave_its_artifact(store, tmp_path, name):
    ref = store.publish(make_folder(tmp_path / "out"), manifest_of(tmp_path / "out"))
    manifest = store.manifest(ref)
    entry = manifest.files["model.safetensors"]
    with pytest.raises(ValidationError, match=r"name of a file|manifest's own name"):
        Manifest(**manifest.model_dump() | {"files": {name: entry}})
    path = store.fetch(ref) / MANIFEST
    path.write_text(json.dumps(manifest.model_dump() | {"files": {name: entry.model_dump()}}))
    assert store.manifest(ref) is None
    with pytest.raises(ArtifactError):
        LocalStore(tmp_path / "store" / ".." / "store").fetch(ref)


@pytest.mark.parametrize("field", ["kind", "sha256"])
@pytest.mark.parametrize("value", ["..", "a/b", "", "/a", "a\\b"])
def test_a_reference_cannot_leave_the_store(field, value):
    with pytest.raises(ValidationError):
        ArtifactRef(**{"kind": "model", "uri": "u", "sha256": "ab"} | {field: value})


@pytest.mark.parametrize(
    "entry", [{"sha256": "../../x", "size": 1}, {"sha256": "", "size": 1}, {"sha256": "ab", "size": -1}]
)
def test_a_digest_or_size_that_is_none_is_refused(entry):
    """A note's digest is part of its key in a bucket."""
    with pytest.raises(ValidationError):
        FileEntry.model_validate(entry)


def saved_by_torch() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weights": torch.zeros(2)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("optimizer.pt", b"anything"),
        ("training_args.bin", b"anything"),
        ("rows.pkl", b"anything"),
        ("sub/state", pickle.dumps({"a": 1})),
        ("sub/old", pickle.dumps({"a": 1}, protocol=2)),
        ("weights", saved_by_torch()),
    ],
)
def test_a_pickle_is_not_published(store, tmp_path, name, content):
    folder = make_folder(tmp_path / "out")
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{name} is a pickle.*write tensors as .safetensors"):
        store.publish(folder, manifest_of(folder))


def test_an_empty_output_cannot_be_published(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtifactError, match="wrote nothing"):
        manifest_of(tmp_path / "out")


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"storage\.uri=.*cannot be written"):
        check_writable(tmp_path / "file", "storage.uri")


def publish_forever(root: Path, folder: Path) -> None:
    while True:
        manifest = manifest_of(folder)
        LocalStore(root).publish(folder, manifest)
        # Take the manifest away, so that the next round publishes for real.
        (root / "artifacts" / "model" / manifest.digest / MANIFEST).unlink()


def test_a_writer_killed_at_any_moment_leaves_nothing_that_reads_as_whole(tmp_path):
    folder = make_folder(tmp_path / "out", "w" * 3_000_000)
    root = tmp_path / "store"
    expected = manifest_of(folder)
    for round_number in range(8):
        writer = multiprocessing.get_context("fork").Process(target=publish_forever, args=(root, folder))
        writer.start()
        time.sleep(0.05 + 0.013 * round_number)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        path = root / "artifacts" / "model" / expected.digest / MANIFEST
        if path.is_file():
            assert json.loads(path.read_text())["files"]
            ref = ArtifactRef(kind="model", uri=path.parent.as_uri(), sha256=expected.digest)
            LocalStore(root).fetch(ref)
    ref = LocalStore(root).publish(folder, expected)
    assert (LocalStore(root).fetch(ref) / "model.safetensors").stat().st_size == 3_000_000


def claim_at_once(root: Path, number: int, start: float) -> str:
    time.sleep(max(0.0, start - time.time()))
    return LocalStore(root).claim("promotions/m/1", f"writer {number}")


def test_of_eight_processes_that_claim_a_name_at_once_one_wins_and_all_read_its_text(tmp_path):
    with ProcessPoolExecutor(8, mp_context=multiprocessing.get_context("spawn")) as pool:
        start = time.time() + 5
        said = [task.result() for task in [pool.submit(claim_at_once, tmp_path, n, start) for n in range(8)]]
    assert len(set(said)) == 1 and said[0].startswith("writer ")
    assert LocalStore(tmp_path).claim("promotions/m/1", "later") == said[0]
    assert [path.name for path in (tmp_path / "claims" / "promotions" / "m").iterdir()] == ["1"]
