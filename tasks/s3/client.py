"""The boto3 client of a bucket: what its errors mean, what is tried again, and what its server can do.

Keys come from boto3's own places, and never appear in a message.
"""

from __future__ import annotations

import logging
import os
import random
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.client import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from urllib3.exceptions import HTTPError as TransportError

from qwenlong_core.proxies import is_loopback, reached
from qwenlong_core.settings.base import Block
from qwenlong_core.settings.running import S3Settings
from qwenlong_core.store.artifacts import ArtifactError, Damaged

logger = logging.getLogger(__name__)
T = TypeVar("T")

READ_SECONDS = 60
"""How long the server may send nothing."""
TRIES = 8
"""Tries of one request: about a minute, with botocore's own retries inside each."""
FEW_TRIES = 3
"""Tries where a quick answer matters more: of the first request, which tells whether the bucket can be used."""
_GARBLED_TRIES = 4
_REFUSED = {
    "403": "the keys do not allow it",
    "AccessDenied": "the keys do not allow it",
    "AllAccessDisabled": "the keys do not allow it",
    "AccountProblem": "the account has a problem",
    "ExpiredToken": "the session token has expired: get a new one",
    "InvalidAccessKeyId": "the server does not know the access key: check AWS_ACCESS_KEY_ID",
    "InvalidToken": "the session token is not valid: get a new one",
    "KMS.DisabledException": "the key of storage.s3.kms_key is disabled",
    "KMS.NotFoundException": "there is no such key: correct storage.s3.kms_key",
    "NoSuchBucket": "there is no such bucket: create it, or correct storage.uri",
    "PermanentRedirect": "the bucket is in another region: set storage.s3.region",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set storage.s3.region",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "SignatureDoesNotMatch": "the secret key does not fit the access key: check AWS_SECRET_ACCESS_KEY",
}
"""Error codes that no retry changes, with what to do about them."""
_UNKNOWN = frozenset({"InvalidArgument", "InvalidRequest", "NotImplemented", "501"})
"""Error codes of servers that do not know a condition of the request, such as ``If-None-Match``."""
_NO_KEYS = (
    "no complete credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
    "or run where the machine has a role"
)


class Garbled(Exception):
    """Content that differs from its digest; the request is repeated."""


def connect(s3: S3Settings) -> Any:
    """A client with timeouts and botocore's standard retries.

    Raises:
        ArtifactError: the AWS profile does not exist, or the endpoint (which boto3 may take from
            ``AWS_ENDPOINT_URL``) carries credentials.
        ConnectionError: a proxy is in the way.
    """
    endpoint = s3.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    config = Config(
        connect_timeout=5,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 4},
        max_pool_connections=s3.max_concurrency + 8,
        s3={"addressing_style": "path" if s3.endpoint_url else "auto"},
        proxies={} if is_loopback(endpoint) else None,
        # We send checksums ourselves: those of the bytes that were hashed when the artifact was described. boto3's
        # would be of the bytes that it reads, altered or not.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        session = boto3.session.Session()
        region = s3.region or session.region_name or "us-east-1"
        client = session.client("s3", region_name=region, endpoint_url=s3.endpoint_url, config=config)
    except (ProfileNotFound, ValueError) as error:
        raise ArtifactError(f"storage.s3: {error}") from None
    if "@" in urlsplit(client.meta.endpoint_url).netloc:
        raise ArtifactError("the S3 endpoint in AWS_ENDPOINT_URL carries credentials: leave them out of the address")
    reached(client.meta.endpoint_url)
    return client


def code_of(error: ClientError) -> str:
    """The server's error code, such as ``NoSuchKey`` or ``503``."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def status_of(error: ClientError) -> int:
    """The HTTP status of an answer."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def with_retries(what: str, action: Callable[[], T], tries: int = TRIES) -> T:
    """Call ``action`` until it succeeds. botocore already repeats what the network broke; this also repeats what
    arrived garbled, and goes on for longer.

    Args:
        what: what the action does, for messages.

    Raises:
        ArtifactError: the server refuses it, or there are no keys; a retry cannot help.
        Damaged: what arrives differs from its digest every time.
        ConnectionError: all tries failed; it may pass.
        ClientError: the condition does not hold (412) or the server does not know the request (501). The caller knows
            what that means.
    """
    for done in range(1, tries + 1):
        try:
            return action()
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise ArtifactError(f"{what}: {_NO_KEYS}") from error
        except (ClientError, BotoCoreError, TransportError, Garbled, ConnectionError, TimeoutError) as error:
            _raise_if_final(what, error)
            if isinstance(error, Garbled) and done >= min(tries, _GARBLED_TRIES):
                raise Damaged(f"{what}: {error}: refresh the stage that made it") from error
            if done == tries:
                raise ConnectionError(f"{what}: gave up after {tries} tries: {_in_words(error)}") from error
            # One warning is enough: what follows is half a minute of waiting.
            logger.log(
                logging.WARNING if done == FEW_TRIES else logging.INFO,
                "%s: %s; trying again",
                what,
                _in_words(error),
            )
            time.sleep(random.uniform(0.5, 1.5) * 0.1 * 2**done)
    raise AssertionError("unreachable")


def _raise_if_final(what: str, error: Exception) -> None:
    if isinstance(error, ClientError):
        if code_of(error) in _REFUSED:
            raise ArtifactError(f"{what}: {_REFUSED[code_of(error)]} ({code_of(error)})") from error
        if status_of(error) in (412, 501):
            raise error


def _in_words(error: Exception) -> str:
    return code_of(error) if isinstance(error, ClientError) else f"{type(error).__name__}: {error}"


class Abilities(Block):
    """What the server can do, found out by trying."""

    checks_sha256: bool
    """It refuses a body whose SHA-256 differs from the one in the request."""
    create_only: bool
    """With ``If-None-Match: *`` it refuses to overwrite an object."""

    def in_words(self) -> str:
        """For `doctor` and the log."""
        checks = "the server checks SHA-256"
        if not self.checks_sha256:
            checks = "the server does not check SHA-256, so uploads are read back before they count"
        creates = "and knows create-only writes"
        if not self.create_only:
            creates = (
                "and does not know create-only writes, so of two writers of the same content the last one's manifest "
                "stays"
            )
        return f"{checks}, {creates}"


def find_abilities(client: Any, bucket: str, prefix: str, where: str, made: dict[str, Any]) -> Abilities:
    """Find out what the server can do: write a probe, try to overwrite it on condition and to send it with a wrong
    checksum, delete it.

    Args:
        where: the store's address, for messages.
        made: arguments of every request that makes an object; a bucket may refuse those without encryption.

    Raises:
        ArtifactError: the bucket cannot be written.
    """
    probe = {"Bucket": bucket, "Key": f"{prefix}.probe/{uuid.uuid4().hex}"}
    put = partial(client.put_object, **probe, **made, Body=b"probe")
    with_retries(f"writing to {where}", put, FEW_TRIES)
    try:
        create_only = _is_refused(where, partial(put, IfNoneMatch="*"), {412})
        checks = _is_refused(where, partial(put, ChecksumSHA256="A" * 43 + "="), {400})
    finally:
        with_retries(f"deleting from {where}", lambda: client.delete_object(**probe))
    found = Abilities(checks_sha256=checks, create_only=create_only)
    level = logging.INFO if checks and create_only else logging.WARNING
    logger.log(level, "%s: %s", where, found.in_words())
    return found


def _is_refused(where: str, action: Callable[[], Any], statuses: set[int]) -> bool:
    """Whether the server refuses a request with one of these statuses. A server that does not know the condition
    does not."""

    def ask() -> bool:
        try:
            action()
        except ClientError as error:
            if status_of(error) in statuses:
                return True
            if code_of(error) in _UNKNOWN:
                return False
            raise
        return False

    return with_retries(f"asking what {where} can do", ask)
