"""``qwenlong artifacts`` on a folder and on a bucket, with a real MLflow registry."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qwenlong.flows.cli.artifacts import app
from qwenlong.tasks.inventory import collect, listed
from qwenlong.tasks.lineage import ancestor_tree, tree_below_version
from qwenlong.tasks.references import BadReference, resolve_artifact
from qwenlong.tasks.s3.store import S3Store
from qwenlong.tasks.tracking.client import Tracker
from qwenlong.tasks.tracking.outbox import TrackedRun
from qwenlong.tasks.tracking.registry import needed_artifacts, register
from qwenlong.tasks.tracking.runs import RunNote
from qwenlong_core.settings.running import S3Settings, TrackingSettings
from qwenlong_core.store.artifacts import ArtifactRef, Manifest, describe, now
from qwenlong_core.store.contents import read_contents, verify_all
from qwenlong_core.store.files import MANIFEST
from qwenlong_core.store.garbage import Rules, plan
from qwenlong_core.store.local import LocalStore
from qwenlong_core.store.protocol import StageRecord, Store, refs_in

MIB = 1024**2
IN_40_DAYS = Rules(datetime.now(UTC) + timedelta(days=40), keep=timedelta(days=30), grace=timedelta(hours=24))
TODAY = Rules(datetime.now(UTC), keep=timedelta(days=30), grace=timedelta(hours=24))


@pytest.fixture(scope="module")
def tracking(tmp_path_factory) -> TrackingSettings:
    """An MLflow database; the tests register different artifacts in it."""
    folder = tmp_path_factory.mktemp("mlflow")
    settings = TrackingSettings(uri=f"sqlite:///{folder}/mlflow.db")
    assert TrackedRun(Tracker(settings), RunNote(name="made", params={}, tags={}), folder).run_id() is not None
    return settings


@pytest.fixture(params=["folder", "bucket"])
def store(request, tmp_path) -> Store:
    if request.param == "folder":
        return LocalStore(tmp_path / "store")
    bucket = request.getfixturevalue("bucket")
    s3 = S3Settings(endpoint_url=request.getfixturevalue("s3_server").endpoint, part_bytes=5 * MIB)
    return S3Store(f"s3://{bucket}/project", s3, tmp_path / "cache")


def make(store: Store, folder: Path, kind: str, text: str, stage: str = "", **parents: str) -> ArtifactRef:
    """Publish an artifact, with a record if a stage is named."""
    (folder / text).mkdir(parents=True)
    (folder / text / "content.json").write_text(json.dumps(text))
    (folder / text / "metrics.jsonl").write_text("{}")
    manifest = describe(folder / text, kind, parents=parents, settings_digest="s", code_digest="code")
    ref = store.publish(folder / text, manifest)
    if stage:
        settings = {"learning_rate": text}
        store.record(
            StageRecord(
                stage=stage,
                fingerprint=text,
                ref=ref,
                profile="p",
                settings=settings,
                created_at=now(),
                mlflow_run_id="run7",
            )
        )
    return ref


def left(store: Store) -> set[str]:
    return {ref.sha256 for ref in refs_in(store.listing(), store.uri)}


def test_an_artifact_is_traced_back_to_data_settings_and_code(store, tracking, tmp_path):
    data = make(store, tmp_path / "out", "data", "rows", "prepare")
    model = make(store, tmp_path / "out", "model", "weights", "sft", data=data.sha256)
    evaluation = make(store, tmp_path / "out", "evaluation", "scores", model=model.sha256)
    (tmp_path / "registration").mkdir()
    register(tracking, {"model": model, "evaluation": evaluation}, None, tmp_path / "registration")
    contents = read_contents(store)
    for text in (model.sha256, model.short, f"model/{model.short}", model.uri, "models:/qwenlong@challenger"):
        assert resolve_artifact(text, contents.refs, tracking) == model
    tree = ancestor_tree(model.sha256, contents)
    assert (tree["stage"], tree["code_digest"], tree["mlflow_run_id"]) == ("sft", "code", "run7")
    assert tree["settings"] == {"learning_rate": "weights"}
    assert [(p["input"], p["sha256"], p["settings"]) for p in tree["parents"]] == [
        ("data", data.sha256, {"learning_rate": "rows"})
    ]
    rows = {row["sha256"]: row for row in listed(contents)}
    assert rows[model.sha256]["stages"] == ["sft"] and rows[model.sha256]["bytes"] == len('"weights"') + 2


@pytest.mark.parametrize("text", ["0000000", "models:/qwenlong@nobody", "models:/nobody/1", "models:/x"])
def test_what_cannot_be_resolved_is_refused(tracking, text):
    with pytest.raises(BadReference, match=text):
        resolve_artifact(text, [], tracking)


def test_a_digest_that_fits_two_artifacts_is_refused(tracking):
    refs = [ArtifactRef(kind="model", uri="u", sha256=f"ab{number}") for number in range(2)]
    with pytest.raises(BadReference, match="fits 2 artifacts: give more of the digest"):
        resolve_artifact("ab", refs, tracking)
    assert resolve_artifact("ab1", refs, tracking) == refs[1]


def test_gc_takes_what_nothing_needs_and_only_when_told_to(store, tracking, tmp_path):
    out = tmp_path / "out"
    data, model = make(store, out, "data", f"d{tmp_path}".replace("/", "")), None
    model = make(store, out, "model", "w", data=data.sha256)
    evaluation = make(store, out, "evaluation", "e", model=model.sha256)
    recorded, forgotten = make(store, out, "model", "recorded", "sft"), make(store, out, "model", "forgotten")
    running = make(store, out, "model", "running")
    (tmp_path / "registration").mkdir()
    register(tracking, {"model": model, "evaluation": evaluation}, None, tmp_path / "registration")
    note = RunNote(name="at work", params={}, tags={}, inputs={"model": running})
    run = TrackedRun(Tracker(tracking), note, tmp_path / "outbox")
    assert run.run_id() is not None
    needed = {ref.sha256 for ref in (data, model, evaluation, recorded, running)}
    assert needed_artifacts(tracking) >= {model.sha256, evaluation.sha256, running.sha256}

    everything = left(store)
    assert collect(store, tracking, TODAY, delete=True) == [] and left(store) == everything
    doomed = collect(store, tracking, IN_40_DAYS, delete=False)
    assert {each.stored.name.split("/")[2] for each in doomed} == {forgotten.sha256} and left(store) == everything
    collect(store, tracking, IN_40_DAYS, delete=True)
    assert left(store) == needed
    assert not any(forgotten.sha256 in stored.name for stored in store.listing())
    assert not any(verify_all(store, refs_in(store.listing(), store.uri)).values())

    run.finish("FINISHED")
    collect(store, tracking, IN_40_DAYS, delete=True)
    assert left(store) == needed - {running.sha256}


def test_gc_takes_unfinished_uploads_and_remains(bucket, s3_server, tracking, tmp_path):
    s3 = S3Settings(endpoint_url=s3_server.endpoint)
    store = S3Store(f"s3://{bucket}/project", s3, tmp_path / "cache")
    raw = s3_server.client()
    kept = make(store, tmp_path / "out", "model", "kept", "sft")
    for prefix in ("project", "another"):
        upload = raw.create_multipart_upload(Bucket=bucket, Key=f"{prefix}/artifacts/model/x/weights")
        raw.upload_part(
            Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"], PartNumber=1, Body=b"x" * 5 * MIB
        )
        raw.put_object(Bucket=bucket, Key=f"{prefix}/artifacts/model/y/weights", Body=b"half")
    assert collect(store, tracking, TODAY, delete=True) == []
    assert len(collect(store, tracking, IN_40_DAYS, delete=True)) == 2
    assert [upload["Key"] for upload in raw.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [
        "another/artifacts/model/x/weights"
    ]
    assert raw.head_object(Bucket=bucket, Key="another/artifacts/model/y/weights")
    assert left(store) == {kept.sha256}


def test_what_is_written_again_after_gc_listed_it_stays(store, tracking, tmp_path):
    """A run makes an artifact again while `gc` is about to delete the old one."""
    ref = make(store, tmp_path / "out", "model", f"w-{tmp_path.name}")
    contents = read_contents(store)
    doomed = [each.stored for each in plan(contents.listing, contents.manifests, {}, set(), IN_40_DAYS)]
    assert {stored.name for stored in doomed} == {stored.name for stored in contents.listing}
    time.sleep(2.1)  # a server tells the time of writing in whole seconds
    manifest = store.manifest(ref)
    first, *rest = doomed
    assert first.name.endswith(MANIFEST)
    store.remove(first)
    publish_anew(store, tmp_path / "out" / f"w-{tmp_path.name}", manifest)
    for stored in rest:
        store.remove(stored)
    assert verify_all(store, [ref]) == {f"model/{ref.sha256}": []}


def publish_anew(store: Store, folder: Path, manifest: Manifest) -> None:
    """As if an hour had passed: files that are there already are sent again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qwenlong.tasks.s3.transfer._RESUMED", timedelta(0))
        store.publish(folder, manifest)


def test_what_is_not_ours_or_not_readable_ends_no_command(store, tracking, tmp_path):
    ref = make(store, tmp_path / "out", "model", "w", "sft")
    broken = "stages/sft/broken.json", "artifacts/my model/x/manifest.json"
    if isinstance(store, LocalStore):
        for name in broken:
            (store.root / name).parent.mkdir(parents=True, exist_ok=True)
            (store.root / name).write_text('{"stage": "sft"')
    else:
        for name in broken:
            store._put(f"{store.prefix}{name}", b'{"stage": "sft"')
    assert store.lookup("sft", "broken") is None and store.latest("sft", "p").ref == ref
    assert [row["sha256"] for row in listed(read_contents(store))] == [ref.sha256]
    collect(store, tracking, IN_40_DAYS, delete=True)
    assert not any(stored.name in broken for stored in store.listing()) and left(store) == {ref.sha256}


def test_gc_refuses_when_the_registry_is_not_there(store, tmp_path):
    make(store, tmp_path / "out", "model", "w")
    with pytest.raises(ValueError, match="no such database"):
        collect(store, TrackingSettings(uri=f"sqlite:///{tmp_path}/none.db"), IN_40_DAYS, delete=True)
    assert left(store) and not (tmp_path / "none.db").exists()


def test_verification_names_the_damaged_file(store, tmp_path):
    ref = make(store, tmp_path / "out", "model", "w")
    whole = make(store, tmp_path / "out", "model", "whole")
    if isinstance(store, LocalStore):
        (store.root / "artifacts" / "model" / ref.sha256 / "content.json").write_text("x")
    else:
        store.client.put_object(
            Bucket=store.bucket, Key=f"project/artifacts/model/{ref.sha256}/content.json", Body=b"x"
        )
    found = verify_all(store, refs_in(store.listing(), store.uri))
    assert found == {f"model/{ref.sha256}": ["content.json"], f"model/{whole.sha256}": []}


def test_show_draws_a_shared_parent_once_and_says_how_a_model_scored(
    tmp_path, tracking, monkeypatch, make_evaluation, write_evaluation
):
    monkeypatch.chdir(tmp_path)
    store = LocalStore(tmp_path / "store")
    data = make(store, tmp_path / "data", "data", "rows")
    base = make(store, tmp_path / "base", "model", "base")
    model = make(store, tmp_path / "model", "model", "w", data=data.sha256, model=base.sha256)
    log = write_evaluation(make_evaluation([1, 0, 1, 1]), tmp_path / "log")
    parents = {"model": model.sha256, "data": data.sha256}
    evaluation = store.publish(log, describe(log, "evaluation", parents=parents, settings_digest="s", code_digest="c"))
    options = ["--set", f"storage.uri={store.root}", "--set", f"tracking.uri={tracking.uri}"]
    shown = CliRunner().invoke(app, ["show", evaluation.short, *options])
    assert shown.exit_code == 0, shown.stderr
    lines = [line for line in shown.stdout.splitlines() if data.short in line]
    assert len(lines) == 2 and lines[1].endswith("as above")
    assert "scored 0.75 [" in shown.stdout
    assert json.loads(CliRunner().invoke(app, ["show", model.short, "--json", *options]).stdout)["scores"] == [
        {"sha256": evaluation.sha256, "accuracy": shown.stdout.split("scored ")[1].split(" over")[0], "items": 4}
    ]


def test_a_page_shows_the_way_from_a_registry_version_to_the_data(tmp_path, tracking, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = LocalStore(tmp_path / "store")
    data = make(store, tmp_path / "out", "data", "rows", "prepare")
    model = make(store, tmp_path / "out", "model", "weights", "sft", data=data.sha256)
    evaluation = make(store, tmp_path / "out", "evaluation", "scores", model=model.sha256)
    folder = tmp_path / "registration"
    folder.mkdir()
    parents = {"model": model, "evaluation": evaluation}
    register(tracking, parents, None, folder)
    digests = {name: ref.sha256 for name, ref in parents.items()}
    store.publish(folder, describe(folder, "registration", parents=digests, settings_digest="s", code_digest="c"))
    tree = tree_below_version(store, model.sha256, read_contents(store))
    assert tree["stage"] == "qwenlong version 1" and {one["sha256"] for one in tree["parents"]} == set(digests.values())
    options = ["--set", f"storage.uri={store.root}", "--set", f"tracking.uri={tracking.uri}", "--html", "page.html"]
    shown = CliRunner().invoke(app, ["show", data.short, *options])
    assert shown.exit_code == 0 and "page.html" in shown.stdout, shown.stderr
    page = (tmp_path / "page.html").read_text()
    assert f"data/{data.sha256}" in page and model.sha256 not in page, "what was made of it is not where it came from"


def test_the_commands_speak_json_and_exit_1_on_damage(tmp_path, tracking, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = LocalStore(tmp_path / "store")
    ref = make(store, tmp_path / "out", "model", "w", "sft")
    options = ["--set", f"storage.uri={store.root}", "--set", f"tracking.uri={tracking.uri}", "--profile", "smoke"]

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, [*words, *options])
        return done.exit_code, done.stdout

    assert json.loads(run("ls", "--json")[1])[0]["sha256"] == ref.sha256
    shown = json.loads(run("show", ref.short, "--json")[1])
    assert shown["uri"] == ref.uri and shown["stage"] == "sft" and "content.json" in shown["files"]
    assert "learning_rate" in run("show", ref.short, "--settings")[1] and ref.short in run("ls")[1]
    assert "stage sft of profile" in run("show", ref.short)[1] and "learning_rate" not in run("show", ref.short)[1]
    assert run("verify", "--all") == (0, "1 artifacts verified, 0 damaged\n")
    assert run("verify")[0] == 2 and run("show", "nothing")[0] == 2
    assert json.loads(run("gc", "--json")[1]) == {"deleted": False, "doomed": []}
    old = make(store, tmp_path / "out", "model", "of no record")
    said = run("gc", "--keep-days", "0", "--grace-hours", "0")[1].splitlines()
    assert [line.split("  ")[0] for line in said[:-1]] == [f"artifacts/model/{old.sha256}"]
    assert "in 3 files; nothing was deleted: give --delete" in said[-1]
    (store.root / "artifacts" / "model" / ref.sha256 / "content.json").write_text("x")
    code, said = run("verify", ref.short)
    assert code == 1 and "content.json" in said
