"""A teacher on loopback: a real small model behind an OpenAI-compatible address, one completion at a time.

The same seed gives the same completion, as with vLLM. Every request is a line of LOG before it is
answered. Started as::

    python tests/teacher_server.py MODEL_FOLDER PORT LOG
"""

import json
import sys
import threading
from pathlib import Path
from typing import Any

from endpoint_server import payload, serve_forever

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


if __name__ == "__main__":
    teacher, log = Teacher(sys.argv[1]), Path(sys.argv[3])

    def logged(request: dict[str, Any]) -> bytes:
        with log.open("a") as lines:
            lines.write(json.dumps(request["seed"]) + "\n")
        return teacher.reply(request)

    serve_forever(int(sys.argv[2]), logged)
