"""Upload and download files: in parallel parts, with bounded memory, hashed on the way.

boto3's own transfer manager hashes parts only. Here the digest of the whole file, the one in the manifest, is computed
over the very bytes that are sent, before the upload is completed.

Uploads hold at most ``max_concurrency + 2`` parts in memory, downloads one MiB per thread.
"""

from __future__ import annotations

import hashlib
import logging
import os
from base64 import b64encode
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, BinaryIO, NamedTuple

from botocore.exceptions import ClientError

from qwenlong.tasks.s3.client import Garbled, status_of, with_retries
from qwenlong_core.settings.running import S3Settings
from qwenlong_core.store.artifacts import ArtifactError, Damaged
from qwenlong_core.store.files import FileEntry

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_MAX_PARTS = 10_000
"""S3's limit of parts in one object."""
_FILES_AT_ONCE = 4
_PART_TRIES = 3
_RESUMED = timedelta(hours=1)
"""What an interrupted writer sent this recently is not sent again. `gc` may be about to delete what is older."""
DIGEST = "sha256"
"""Metadata of every object: the SHA-256 of its content. For a multipart object a server itself keeps none."""


class Item(NamedTuple):
    """One file of an artifact: its key in the bucket, its path here, and what it must hold."""

    key: str
    path: Path
    entry: FileEntry


class _Pools(NamedTuple):
    files: ThreadPoolExecutor
    parts: ThreadPoolExecutor
    memory: BoundedSemaphore
    """Held once for every part in memory."""


def checksum(data: bytes) -> str:
    """SHA-256 in S3's notation, base64."""
    return b64encode(hashlib.sha256(data).digest()).decode()


class Transfers:
    """Uploads and downloads of one bucket."""

    def __init__(self, client: Any, bucket: str, s3: S3Settings) -> None:
        self.client, self.bucket, self._s3 = client, bucket, s3

    def upload(self, items: Iterable[Item], *, checks_sha256: bool, overwrite: bool) -> None:
        """Upload files.

        Args:
            checks_sha256: the server checks the SHA-256 of what it receives; otherwise every file is read back.
            overwrite: also send files that seem to be there already.

        Raises:
            ArtifactError: a file differs from its entry.
        """
        send = partial(self._upload, checks_sha256, overwrite)
        with self._pools() as pools:
            _wait_for_all(
                [
                    pools.files.submit(with_retries, f"uploading {item.key}", partial(send, pools, item))
                    for item in items
                ]
            )

    def download(self, items: Iterable[Item]) -> None:
        """Download files and check each against its digest.

        Raises:
            Damaged: a file is missing from the bucket, or altered there.
        """
        with self._pools() as pools:
            fetch = partial(self._download, pools)
            _wait_for_all(
                [pools.files.submit(with_retries, f"downloading {item.key}", partial(fetch, item)) for item in items]
            )

    def damaged(self, items: Iterable[Item]) -> list[Item]:
        """The files in the bucket that are missing or differ from their digest. Reads every byte and keeps none."""
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            jobs = [
                (item, pool.submit(with_retries, f"reading {item.key}", partial(self._is_whole, item)))
                for item in items
            ]
            return [item for item, whole in jobs if not whole.result()]

    def head(self, key: str) -> dict[str, Any] | None:
        """The server's description of an object, or ``None`` if there is no object."""
        try:
            return dict(self.client.head_object(Bucket=self.bucket, Key=key))
        except ClientError as error:
            if status_of(error) == 404:
                return None
            raise

    def new_object(self, sha256: str) -> dict[str, Any]:
        """Arguments of every request that makes an object: its digest, and how it is encrypted."""
        encryption = {"ServerSideEncryption": self._s3.server_side_encryption, "SSEKMSKeyId": self._s3.kms_key}
        return {"Metadata": {DIGEST: sha256}} | {name: value for name, value in encryption.items() if value}

    @contextmanager
    def _pools(self) -> Iterator[_Pools]:
        threads = self._s3.max_concurrency
        with ThreadPoolExecutor(threads) as parts, ThreadPoolExecutor(_FILES_AT_ONCE) as files:
            yield _Pools(files, parts, BoundedSemaphore(threads + 2))

    def _object(self, item: Item) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Key": item.key}

    def _upload(self, checks_sha256: bool, overwrite: bool, pools: _Pools, item: Item) -> None:
        # A server without checksums may have stored something else earlier: only the writer who read it back knows.
        if checks_sha256 and not overwrite and self._is_there(item, datetime.now(UTC) - _RESUMED):
            return
        if item.entry.size <= self._s3.part_bytes:
            self._put(pools, item)
        else:
            self._put_parts(pools, item)
        if not (self._is_there(item) if checks_sha256 else self._is_whole(item)):
            raise Garbled(f"{item.key} is not in the bucket as it was sent")

    def _is_there(self, item: Item, since: datetime | None = None) -> bool:
        """Whether there is an object with the right size and digest, not written before ``since``.

        Its bytes were checked when it was sent, so they are not read.
        """
        head = self.head(item.key)
        if head is None or (since is not None and head["LastModified"] < since):
            return False
        return (head["ContentLength"], head["Metadata"].get(DIGEST)) == (item.entry.size, item.entry.sha256)

    def _is_whole(self, item: Item) -> bool:
        try:
            body = self.client.get_object(**self._object(item))["Body"]
        except ClientError as error:
            if status_of(error) == 404:
                return False
            raise
        digest = hashlib.sha256()
        for chunk in body.iter_chunks(_CHUNK):
            digest.update(chunk)
        return digest.hexdigest() == item.entry.sha256

    def _put(self, pools: _Pools, item: Item) -> None:
        with pools.memory:
            data = item.path.read_bytes()
            _check_digest(item, hashlib.sha256(data).hexdigest())
            made = self.new_object(item.entry.sha256)
            self.client.put_object(**self._object(item), **made, Body=data, ChecksumSHA256=checksum(data))

    def _put_parts(self, pools: _Pools, item: Item) -> None:
        """Upload a file in parts. It is read once: hashed as a whole here, and by parts in the threads that send."""
        made = self.new_object(item.entry.sha256)
        begun = self.client.create_multipart_upload(**self._object(item), **made, ChecksumAlgorithm="SHA256")
        upload = self._object(item) | {"UploadId": _field_of(begun, "UploadId")}
        sent: list[Future[dict[str, Any]]] = []
        try:
            whole = hashlib.sha256()
            with item.path.open("rb") as stream:
                while data := self._next_part(pools, stream, item.entry.size):
                    sent.append(pools.parts.submit(self._send_part, pools, upload, len(sent) + 1, data))
                    whole.update(data)
            _check_digest(item, whole.hexdigest())
            parts = {"Parts": [part.result() for part in sent]}
            self.client.complete_multipart_upload(**upload, MultipartUpload=parts)
        except BaseException:
            self._abort(pools, upload, sent)
            raise

    def _next_part(self, pools: _Pools, stream: BinaryIO, size: int) -> bytes:
        """Read the next part, once there is room for it; the thread that sends it makes the room free again."""
        pools.memory.acquire()
        data = b""
        try:
            # Larger parts for a file that would otherwise need more of them than S3 allows.
            data = stream.read(max(self._s3.part_bytes, -(-size // _MAX_PARTS)))
        finally:
            if not data:
                pools.memory.release()
        return data

    def _send_part(self, pools: _Pools, upload: dict[str, Any], number: int, data: bytes) -> dict[str, Any]:
        part = {"PartNumber": number, "ChecksumSHA256": checksum(data)}
        send = partial(self.client.upload_part, **upload, **part, Body=data)
        try:
            return part | {
                "ETag": _field_of(
                    with_retries(f"uploading part {number} of {upload['Key']}", send, _PART_TRIES), "ETag"
                )
            }
        finally:
            pools.memory.release()

    def _abort(self, pools: _Pools, upload: dict[str, Any], sent: list[Future[dict[str, Any]]]) -> None:
        for part in sent:
            if part.cancel():
                pools.memory.release()  # a part that is under way releases its own
        wait(sent)
        try:
            self.client.abort_multipart_upload(**upload)
        except Exception as error:  # the error that led here matters more than this one; `gc` aborts the upload later
            logger.warning("an unfinished upload of %s is left to gc: %s", upload["Key"], type(error).__name__)

    def _download(self, pools: _Pools, item: Item) -> None:
        """Download a file. Parts are written as they arrive, in any order; the digest follows them from the start."""
        step = self._s3.part_bytes
        digest = hashlib.sha256()
        item.path.parent.mkdir(parents=True, exist_ok=True)
        with item.path.open("w+b") as stream:
            file = stream.fileno()
            starts = range(0, item.entry.size, step)
            jobs = [pools.parts.submit(self._fetch_part, item, file, start, step) for start in starts]
            try:
                for start, job in zip(starts, jobs):
                    job.result()
                    for offset in range(start, min(start + step, item.entry.size), _CHUNK):
                        # Read back from the file, so that what is hashed is what was written.
                        digest.update(os.pread(file, _CHUNK, offset))
            finally:
                for job in jobs:
                    job.cancel()
                wait(jobs)
        if digest.hexdigest() != item.entry.sha256:
            raise Garbled(f"{item.key} differs from its digest")

    def _fetch_part(self, item: Item, file: int, start: int, step: int) -> None:
        end = min(start + step, item.entry.size)

        def fetch() -> None:
            try:
                answer = self.client.get_object(**self._object(item), Range=f"bytes={start}-{end - 1}")
            except ClientError as error:
                if status_of(error) == 416:
                    raise Garbled(f"{item.key} ends before byte {start}") from error
                if status_of(error) == 404:
                    missing = f"s3://{self.bucket}/{item.key} is missing: refresh the stage that made it"
                    raise Damaged(missing) from error
                raise
            position = start
            for chunk in answer["Body"].iter_chunks(_CHUNK):
                position += os.pwrite(file, chunk[: end - position], position)
            if position != end:
                raise Garbled(f"{item.key} ended at byte {position} of {end}")

        with_retries(f"downloading {item.key} from byte {start}", fetch, _PART_TRIES)


def _field_of(answer: dict[str, Any], name: str) -> str:
    if not answer.get(name):
        raise ConnectionError(f"an answer without {name}")
    return str(answer[name])


def _check_digest(item: Item, sha256: str) -> None:
    if sha256 != item.entry.sha256:
        raise ArtifactError(f"{item.path} has changed since it was described: nothing was published")


def _wait_for_all(jobs: list[Future[None]]) -> None:
    """Wait for all jobs. If one fails, those that have not started are cancelled, and its error is raised."""
    wait(jobs, return_when=FIRST_EXCEPTION)
    for job in jobs:
        job.cancel()
    for job in jobs:
        if not job.cancelled():
            job.result()
