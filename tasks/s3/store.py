"""The artifact store in a bucket.

    s3://BUCKET/PREFIX/artifacts/KIND/DIGEST/NAME             a file; the same bytes whoever writes it
    s3://BUCKET/PREFIX/artifacts/KIND/DIGEST/.notes/SHA/NAME  a note, which the digest does not cover
    s3://BUCKET/PREFIX/artifacts/KIND/DIGEST/manifest.json    last, create-only: this publishes
    s3://BUCKET/PREFIX/stages/STAGE/FINGERPRINT.json
    s3://BUCKET/PREFIX/claims/NAME                            create-only, too

The store does not rely on the completion of a multipart upload, which servers do not make atomic, nor on the order of
a listing. Two writers of one artifact write the same files under the same keys, and their notes, which differ, under
different keys. One of them puts its manifest, and the other adopts it.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from qwenlong.tasks.s3.client import (
    FEW_TRIES,
    Abilities,
    Garbled,
    code_of,
    connect,
    find_abilities,
    status_of,
    with_retries,
)
from qwenlong.tasks.s3.read_cache import ReadCache
from qwenlong.tasks.s3.transfer import DIGEST, Item, Transfers, checksum
from qwenlong_core.settings.running import S3Settings, StorageSettings
from qwenlong_core.store.artifacts import NOTES, ArtifactError, ArtifactRef, Damaged, Manifest, read_manifest
from qwenlong_core.store.files import MANIFEST, FileEntry
from qwenlong_core.store.protocol import StageRecord, Stored, check_writable, newest_whole, read_record, refuse_pickles

logger = logging.getLogger(__name__)

_RECORDS_AT_ONCE = 8


@functools.cache
def s3_store(storage: StorageSettings) -> S3Store:
    """The store of these settings. Each process has one, so that the server is probed once (:class:`Abilities`)."""
    limit = None if storage.cache_gb is None else storage.cache_gb * 1e9
    return S3Store(storage.uri, storage.s3 or S3Settings(), Path(storage.cache_dir), limit)


class S3Store:
    """A prefix in a bucket behind a local read cache."""

    def __init__(self, uri: str, s3: S3Settings, cache: Path, cache_limit: float | None = None) -> None:
        self._uri = uri.rstrip("/")
        self.bucket, _, prefix = self._uri.removeprefix("s3://").partition("/")
        self.prefix = f"{prefix}/" if prefix else ""
        self.cache = ReadCache(cache, cache_limit)
        self.client = connect(s3)
        self.s3 = s3
        self._transfers = Transfers(self.client, self.bucket, s3)

    @functools.cached_property
    def abilities(self) -> Abilities:
        """What the server can do, found out on the first write."""
        made = self._transfers.new_object(hashlib.sha256(b"probe").hexdigest())
        return find_abilities(self.client, self.bucket, self.prefix, self.uri, made)

    @property
    def uri(self) -> str:
        """See :class:`Store`."""
        return self._uri

    def check(self) -> str:
        """See :class:`Store`."""
        check_writable(self.cache.root, "storage.cache_dir")
        try:
            return f"{self.uri}, writable; {self.abilities.in_words()}"
        except (ArtifactError, ConnectionError, ClientError) as error:
            raise ArtifactError(f"storage.uri={self.uri!r} cannot be used: {error}") from error

    def publish(self, directory: Path, manifest: Manifest) -> ArtifactRef:
        """See :class:`Store`. ``directory`` is left as it is."""
        refuse_pickles(directory)
        ref = self._ref(manifest)
        there = self.manifest(ref)
        damaged = there is not None and bool(self._transfers.damaged(self._items(there, directory)))
        if there is None or damaged:
            if damaged:
                logger.warning("%s is damaged in the store and is published again", ref.uri)
                self._delete(self._key(ref, MANIFEST))
            items = self._items(manifest, directory)
            self._transfers.upload(items, checks_sha256=self.abilities.checks_sha256, overwrite=damaged)
            self._put_manifest(ref, manifest)
        return ref

    def fetch(self, ref: ArtifactRef) -> Path:
        """See :class:`Store`. A damaged copy in the cache is downloaded again."""
        self.cache.hold(ref)
        if self.cache.manifest(ref) is not None:
            try:
                return self.cache.fetch(ref)
            except Damaged as error:
                logger.warning("downloading it again: %s", error)
        manifest = self._read(ref)
        self.cache.make_room(sum(entry.size for entry in manifest.files.values()))
        return self.cache.admit(manifest, lambda staging: self._transfers.download(self._items(manifest, staging)))

    def manifest(self, ref: ArtifactRef) -> Manifest | None:
        """See :class:`Store`."""
        try:
            text = self._get(self._key(ref, MANIFEST))
            return None if text is None else read_manifest(text, ref)
        except Damaged as error:
            logger.warning("ignored: %s", error)
            return None

    def _read(self, ref: ArtifactRef) -> Manifest:
        text = self._get(self._key(ref, MANIFEST))
        if text is None:
            raise Damaged(f"artifact {ref.kind}/{ref.short} is not in {self.uri}: re-run the stage that makes it")
        return read_manifest(text, ref)

    def record(self, entry: StageRecord) -> None:
        """See :class:`Store`."""
        self._put(self._record_key(entry.stage, entry.fingerprint), entry.model_dump_json(indent=2).encode())

    def lookup(self, stage: str, fingerprint: str) -> StageRecord | None:
        """See :class:`Store`."""
        entry = self._record(self._record_key(stage, fingerprint))
        return entry if entry and self.manifest(entry.ref) else None

    def _record(self, key: str) -> StageRecord | None:
        try:
            text = self._get(key)
        except Damaged as error:
            logger.warning("ignored, so its stage runs again: %s", error)
            return None
        return None if text is None else read_record(text, key)

    def latest(self, stage: str, profile: str) -> StageRecord | None:
        """See :class:`Store`."""
        keys = list(self._keys(f"{self.prefix}stages/{stage}/"))
        with ThreadPoolExecutor(_RECORDS_AT_ONCE) as pool:
            return newest_whole(
                self, [entry for entry in pool.map(self._record, keys) if entry and entry.profile == profile]
            )

    def damage(self, ref: ArtifactRef) -> list[str]:
        """See :class:`Store`."""
        items = self._items(self._read(ref), Path())
        return [item.path.as_posix() for item in self._transfers.damaged(items)]

    def listing(self) -> list[Stored]:
        """See :class:`Store`."""
        objects = self._list("list_objects_v2", "Contents", self.prefix)
        uploads = self._unfinished_uploads()
        cut = len(self.prefix)
        return [Stored(item["Key"][cut:], item["Size"], item["LastModified"]) for item in objects] + [
            Stored(item["Key"][cut:], 0, item["Initiated"], item["UploadId"]) for item in uploads
        ]

    def _unfinished_uploads(self) -> list[dict[str, Any]]:
        try:
            return self._list("list_multipart_uploads", "Uploads", self.prefix)
        except ClientError as error:
            if status_of(error) != 501:
                raise
            logger.warning(
                "%s: this server does not list unfinished uploads, so they cannot be found or aborted", self.uri
            )
            return []

    def remove(self, stored: Stored) -> None:
        """See :class:`Store`."""
        key = self.prefix + stored.name
        if stored.upload is not None:
            self._abort(key, stored.upload)
            return
        head = with_retries(f"looking at s3://{self.bucket}/{key}", partial(self._transfers.head, key))
        # The times differ by less than a second: a listing may give fractions, and this request never does.
        if head is not None and abs(head["LastModified"] - stored.modified) < timedelta(seconds=1):
            self._delete(key)

    def claim(self, name: str, text: str) -> str:
        """See :class:`Store`."""
        if not self.abilities.create_only:
            raise ArtifactError(
                f"{self.uri}: this server does not know create-only writes, so {name} cannot be claimed"
            )
        key = f"{self.prefix}claims/{name}"
        try:
            self._put(key, text.encode(), IfNoneMatch="*")
        except ClientError as error:
            if status_of(error) != 412:
                raise
        found = self._get(key)
        if found is None:
            raise ArtifactError(f"s3://{self.bucket}/{key} was deleted while it was claimed: try again")
        return found.decode()

    def _ref(self, manifest: Manifest) -> ArtifactRef:
        uri = f"{self.uri}/artifacts/{manifest.kind}/{manifest.digest}"
        return ArtifactRef(kind=manifest.kind, uri=uri, sha256=manifest.digest)

    def _key(self, ref: ArtifactRef, name: str) -> str:
        return f"{self.prefix}artifacts/{ref.kind}/{ref.sha256}/{name}"

    def _record_key(self, stage: str, fingerprint: str) -> str:
        return f"{self.prefix}stages/{stage}/{fingerprint}.json"

    def _items(self, manifest: Manifest, directory: Path) -> list[Item]:
        """The artifact's files, each with its key and its path here."""
        ref = self._ref(manifest)
        return [
            Item(self._key(ref, _key_below(name, entry)), directory / name, entry)
            for name, entry in manifest.files.items()
        ]

    def _put_manifest(self, ref: ArtifactRef, manifest: Manifest) -> None:
        key, text = self._key(ref, MANIFEST), manifest.model_dump_json(indent=2).encode()
        only_new = {"IfNoneMatch": "*"} if self.abilities.create_only else {}
        for _ in range(2):
            try:
                return self._put(key, text, **only_new)
            except ClientError as error:
                if status_of(error) != 412:
                    raise
            if self.manifest(ref) is not None:
                logger.info("%s was published by another writer, whose manifest is kept", ref.uri)
                return None
            self._delete(key)  # it cannot be read, or is of another artifact
        raise ConnectionError(f"{ref.uri}: an unreadable manifest comes back each time it is deleted")

    def _put(self, key: str, data: bytes, **condition: str) -> None:
        """Write a small object, with its digest beside it for readers."""
        made = self._transfers.new_object(hashlib.sha256(data).hexdigest()) | {"ChecksumSHA256": checksum(data)}
        put = partial(self.client.put_object, Bucket=self.bucket, Key=key, Body=data, **made, **condition)

        def send() -> None:
            put()
            if not self.abilities.checks_sha256 and self._get(key) != data:
                raise Garbled(f"{key} reads back differently")

        with_retries(f"writing s3://{self.bucket}/{key}", send)

    def _get(self, key: str) -> bytes | None:
        """The content of a small object, checked against the digest beside it; ``None`` if there is no object."""

        def read() -> bytes | None:
            try:
                answer = self.client.get_object(Bucket=self.bucket, Key=key)
            except ClientError as error:
                if status_of(error) == 404:
                    return None
                raise
            data = bytes(answer["Body"].read())
            if hashlib.sha256(data).hexdigest() != answer["Metadata"].get(DIGEST):
                raise Garbled(f"{key} differs from its digest")
            return data

        return with_retries(f"reading s3://{self.bucket}/{key}", read)

    def _delete(self, key: str) -> None:
        with_retries(
            f"deleting s3://{self.bucket}/{key}", partial(self.client.delete_object, Bucket=self.bucket, Key=key)
        )

    def _abort(self, key: str, upload: str) -> None:
        abort = partial(self.client.abort_multipart_upload, Bucket=self.bucket, Key=key, UploadId=upload)
        try:
            with_retries(f"aborting an upload of s3://{self.bucket}/{key}", abort, FEW_TRIES)
        except ConnectionError as error:
            cause = error.__cause__
            if not isinstance(cause, ClientError) or code_of(cause) != "NoSuchUpload":
                raise

    def _keys(self, prefix: str) -> Iterator[str]:
        return (item["Key"] for item in self._list("list_objects_v2", "Contents", prefix))

    def _list(self, operation: str, entries: str, prefix: str) -> list[dict[str, Any]]:
        """All pages of a listing. Servers order them differently, so no caller may rely on an order."""

        def read() -> list[dict[str, Any]]:
            pages = self.client.get_paginator(operation).paginate(Bucket=self.bucket, Prefix=prefix)
            return [item for page in pages for item in page.get(entries, ())]

        return with_retries(f"listing s3://{self.bucket}/{prefix}", read)


def _key_below(name: str, entry: FileEntry) -> str:
    """The key of an artifact's file, below the artifact's own. Two writers of one artifact have different notes."""
    return f".notes/{entry.sha256}/{name}" if name in NOTES else name
