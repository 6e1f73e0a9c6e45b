"""A hub on loopback: serves a folder of ``OWNER/NAME`` as the hub serves its data sets, for the real hub client."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = hashlib.sha1(b"the only commit").hexdigest()


def _handler(folder: Path, asked: list[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, *, with_body: bool) -> None:
            asked.append(self.path)
            body = self._body()
            self.send_response(200 if body is not None else 404)
            body = body or b""
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def _body(self) -> bytes | None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "datasets"]:
                root = folder / parts[2] / parts[3]
                files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
                found = {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                return json.dumps(found).encode() if files else None
            if parts[0] == "datasets" and parts[3] == "resolve":
                path = folder / parts[1] / parts[2] / "/".join(parts[5:])
                return path.read_bytes() if path.is_file() else None
            return None

    return Handler


@contextmanager
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The hub's address, and the paths that were asked for so far."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(folder, asked))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
