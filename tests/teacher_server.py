"""A teacher on loopback: a real small model behind an OpenAI-compatible address, one completion at a time.

The same seed gives the same completion, as with vLLM. Every request is a line of LOG before it is
answered. Started as::

    python tests/teacher_server.py MODEL_FOLDER PORT LOG
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from endpoint_server import payload

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.transformers_engine import TransformersEngine


class Teacher:
    """The model, its tokenizer and the lock that keeps them to one request."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.engine = TransformersEngine(
            AutoModelForCausalLM.from_pretrained(folder).eval(), self.tokenizer, batch_size=1
        )
        self.lock = threading.Lock()

    def reply(self, request: dict[str, Any]) -> bytes:
        """A chat completion with its usage."""
        given = self.tokenizer.apply_chat_template(request["messages"], add_generation_prompt=True, tokenize=False)
        prompt = self.tokenizer(given, add_special_tokens=False)["input_ids"]
        limit = request.get("max_tokens") or request["max_completion_tokens"]
        sampling = Sampling(request["temperature"], request["top_p"], limit, seed=request["seed"])
        with self.lock:
            completion = self.engine.generate([prompt], 1, sampling)[0][0]
        usage = (len(prompt), len(completion.token_ids))
        return payload(completion.text, usage, finish_reason=completion.finish_reason)


def _handler(teacher: Teacher, log: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # /v1/models
            self._send(b"{}")

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with log.open("a") as lines:
                lines.write(json.dumps(request["seed"]) + "\n")
            self._send(teacher.reply(request))

        def log_message(self, *_: object) -> None:
            pass

        def _send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


if __name__ == "__main__":
    handler = _handler(Teacher(sys.argv[1]), Path(sys.argv[3]))
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), handler).serve_forever()
