"""An OpenAI-compatible server on loopback that does what a script says, faults included."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Respond = Callable[[asyncio.StreamWriter, dict[str, Any]], Awaitable[None]]
"""Writes one response to one chat request."""


@dataclass
class Served:
    """Where the server listens, and what it was asked."""

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0


def payload(content: Any, usage: tuple[int, int] = (100, 5), finish_reason: str = "stop", **message: Any) -> bytes:
    message = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "finish_reason": finish_reason, "message": message, "text": content}
    tokens = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    body = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": tokens,
    }
    return json.dumps(body).encode()


def head(status: str, length: int, **headers: str) -> bytes:
    lines = {
        "content-type": "application/json",
        "content-length": str(length),
        "connection": "close",
        **headers,
    }
    return (f"HTTP/1.1 {status}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n").encode()


def says(content: Any, after: float = 0.0, **choice: Any) -> Respond:
    async def respond(writer: asyncio.StreamWriter, _request: dict[str, Any]) -> None:
        await asyncio.sleep(after)
        body = payload(content, **choice)
        writer.write(head("200 OK", len(body)) + body)

    return respond


def raw(body: bytes, status: str = "200 OK", declared: int | None = None, **headers: str) -> Respond:
    """A body as it is; ``declared`` longer than the body cuts it."""

    async def respond(writer: asyncio.StreamWriter, _request: dict[str, Any]) -> None:
        writer.write(head(status, len(body) if declared is None else declared, **headers) + body)

    return respond


def sse(*deltas: dict[str, Any]) -> Respond:
    """A streamed chat completion: one server-sent event a delta."""

    async def respond(writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
        assert request["stream"] is True
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        choices = ([{"index": 0, "delta": delta, "finish_reason": None}] for delta in deltas)
        events = [json.dumps({**chunk, "choices": choice}) for choice in choices]
        body = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()
        writer.write(head("200 OK", len(body), **{"content-type": "text/event-stream"}) + body)

    return respond


async def hang(_writer: asyncio.StreamWriter, _request: dict[str, Any]) -> None:
    await asyncio.sleep(3600)


async def trickle(writer: asyncio.StreamWriter, _request: dict[str, Any]) -> None:
    """One byte every 50 ms: each read succeeds, the whole takes minutes."""
    body = payload("[[YES]]") + b" " * 5_000
    writer.write(head("200 OK", len(body)))
    for byte in body:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.05)


async def reset(writer: asyncio.StreamWriter, _request: dict[str, Any]) -> None:
    writer.transport.abort()


def serve_forever(port: int, reply: Callable[[dict[str, Any]], bytes]) -> None:
    """Serve a real model from a process of its own: ``reply(request)`` gives the body of each answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # /health and /v1/models
            self._send(b"{}")

        def do_POST(self) -> None:
            self._send(reply(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def log_message(self, *_: object) -> None:
            pass

        def _send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):  # the client was killed, as tests do
                self.wfile.write(body)

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


@contextmanager
def served(choose: Callable[[int, dict[str, Any]], Respond]) -> Iterator[Served]:
    """Serve on a free port; ``choose(n, request)`` picks the response to the n-th request (from 0)."""
    state, ready = Served(), threading.Event()
    stop: list[Callable[[], object]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.open_now += 1
        state.most_open = max(state.most_open, state.open_now)
        try:
            header = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(header.split("content-length:")[1].split("\r\n")[0])
            request = json.loads(await reader.readexactly(length))
            state.headers.append(header)
            state.requests.append(request)
            await choose(len(state.requests) - 1, request)(writer, request)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client gave up first, as it should on a hang
        finally:
            state.open_now -= 1
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=1024)
        state.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        stopped, loop = asyncio.Event(), asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(stopped.set))
        ready.set()
        await stopped.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)  # run() cancels what still hangs
    thread.start()
    assert ready.wait(10)
    try:
        yield state
    finally:
        stop[0]()
        thread.join(10)
