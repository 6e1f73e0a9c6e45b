"""mitmproxy addon that breaks S3 traffic on purpose.

    mitmdump --mode reverse:ENDPOINT --set keep_host_header=true -s tests/fault_proxy.py

``FAULT_PLAN`` names a JSON file ``{"kind": ..., "share": ...}``, which is read for every request.
``FAULT_LOG`` names the file that gets one line per fault.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path

from mitmproxy import http

HOLD_SECONDS = 5.0
_ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>planned</Message></Error>"
_ANSWERS = {"500": (500, "InternalError"), "503": (503, "SlowDown")}
_RANDOM = random.Random(7)


def _planned(flow: http.HTTPFlow, kinds: set[str], body: bytes | None = b"any") -> str | None:
    plan = json.loads(Path(os.environ["FAULT_PLAN"]).read_text())
    if plan["kind"] not in kinds or not body or _RANDOM.random() >= plan["share"]:
        return None
    with open(os.environ["FAULT_LOG"], "a") as log:
        log.write(json.dumps({"kind": plan["kind"], "method": flow.request.method, "path": flow.request.path}) + "\n")
    return str(plan["kind"])


def _flipped(body: bytes) -> bytes:
    place = _RANDOM.randrange(len(body))
    return body[:place] + bytes([body[place] ^ (1 << _RANDOM.randrange(8))]) + body[place + 1 :]


def _cut(body: bytes) -> bytes:
    return body[: _RANDOM.randrange(len(body))]


async def request(flow: http.HTTPFlow) -> None:
    """Faults on the way to the server."""
    kind = _planned(flow, {"reset", "timeout", "500", "503"})
    if kind == "reset":
        flow.kill()
    elif kind == "timeout":
        await asyncio.sleep(HOLD_SECONDS)
        flow.kill()
    elif kind is not None:
        status, code = _ANSWERS[kind]
        flow.response = http.Response.make(status, _ERROR.format(code), {"Content-Type": "application/xml"})
    body = flow.request.raw_content
    kind = _planned(flow, {"flipped request", "cut request"}, body)
    if kind is not None and body is not None:
        # Setting the raw content leaves the length header alone, so a cut body ends too early.
        flow.request.raw_content = _flipped(body) if kind == "flipped request" else _cut(body)


async def response(flow: http.HTTPFlow) -> None:
    """Faults on the way back, after the server has acted."""
    if _planned(flow, {"lost reply"}):
        flow.kill()
    body = flow.response.raw_content if flow.response else None
    kind = _planned(flow, {"flipped response", "cut response"}, body)
    if kind is not None and body is not None and flow.response is not None:
        flow.response.raw_content = _flipped(body) if kind == "flipped response" else _cut(body)
