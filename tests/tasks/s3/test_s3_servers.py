"""The bucket store on servers that can do less than ours, or that are asked for more."""

from __future__ import annotations

import io
import os
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from bucket_stores import MIB, make_folder, manifest_of, publish

from qwenlong.tasks.s3.store import S3Store
from qwenlong_core.store.artifacts import ArtifactError, Damaged
from qwenlong_core.store.files import MANIFEST


def make_forgetful(store: S3Store) -> None:
    """Remove from every request what a lesser server would ignore."""

    def strip(params, **_) -> None:
        for name in ("x-amz-checksum-sha256", "If-None-Match"):
            params["headers"].pop(name, None)

    store.client.meta.events.register("before-call.s3", strip)


def flip_bodies(store: S3Store, times: int) -> list[int]:
    """Alter the first bodies that are sent, as a bad server or line might."""
    flipped = []

    def flip(params, **_) -> None:
        if len(flipped) < times and params["body"].getvalue() == b"weights":
            flipped.append(1)
            params["body"] = io.BytesIO(b"weightz")

    store.client.meta.events.register("before-call.s3.PutObject", flip)
    return flipped


def test_a_lesser_server_is_found_out_and_what_it_does_not_check_is_read_back(store, tmp_path, caplog):
    make_forgetful(store)
    assert (store.abilities.checks_sha256, store.abilities.create_only) == (False, False)
    assert "does not check SHA-256, so uploads are read back" in caplog.text
    flipped = flip_bodies(store, times=2)
    ref = publish(store, make_folder(tmp_path / "out"))
    assert len(flipped) == 2
    assert (store.fetch(ref) / "model.safetensors").read_bytes() == b"weights"
    with pytest.raises(ArtifactError, match="does not know create-only writes"):
        store.claim("champion/m/1", "x")


def answers(status: int, code: str) -> tuple[AWSResponse, dict[str, Any]]:
    """Replaces the server's answer."""
    said = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return AWSResponse("", status, {}, io.BytesIO()), said


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument")])
def test_a_server_that_refuses_the_very_condition_is_used_without(store, tmp_path, status, code):
    def refuse(params, **_) -> tuple[AWSResponse, dict[str, Any]] | None:
        return answers(status, code) if "If-None-Match" in params["headers"] else None

    store.client.meta.events.register("before-call.s3.PutObject", refuse)
    ref = publish(store, make_folder(tmp_path / "out"))
    assert (store.abilities.checks_sha256, store.abilities.create_only) == (True, False)
    assert store.fetch(ref)


def test_where_unfinished_uploads_cannot_be_listed_the_rest_still_is(store, tmp_path, caplog):
    store.client.meta.events.register("before-call.s3.ListMultipartUploads", lambda **_: answers(501, "NotImplemented"))
    ref = publish(store, make_folder(tmp_path / "out"))
    assert {f"artifacts/model/{ref.sha256}/{MANIFEST}"} < {stored.name for stored in store.listing()}
    assert "does not list unfinished uploads" in caplog.text


def test_on_a_lesser_server_what_never_reads_back_right_is_not_published(store, tmp_path):
    make_forgetful(store)
    flip_bodies(store, times=100)
    folder = make_folder(tmp_path / "out")
    with pytest.raises(Damaged, match=r"model\.safetensors"):
        publish(store, folder)
    assert store.manifest(store._ref(manifest_of(folder))) is None


def test_the_server_is_asked_to_encrypt(bucket, settings, tmp_path):
    encrypting = settings.model_copy(update={"server_side_encryption": "aws:kms", "kms_key": "key-7"})
    store = S3Store(f"s3://{bucket}/project", encrypting, tmp_path / "cache")

    def drop(params, **_) -> None:  # this server has no keys of its own
        for name in [name for name in params["headers"] if "server-side-encryption" in name]:
            del params["headers"][name]

    store.client.meta.events.register_last("before-call.s3", drop)
    seen = []
    store.client.meta.events.register_first(
        "before-call.s3", lambda params, model, **_: seen.append((model.name, dict(params["headers"])))
    )
    publish(store, make_folder(tmp_path / "out", os.urandom(6 * MIB)))
    made = [(name, headers) for name, headers in seen if name in ("PutObject", "CreateMultipartUpload")]
    assert {name for name, _ in made} == {"PutObject", "CreateMultipartUpload"}
    assert len(made) > 4, "the probe too, since a bucket may refuse what is not encrypted"
    assert all(headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-7" for _, headers in made)
