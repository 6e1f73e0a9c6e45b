"""A judge on loopback: SmolLM2-135M behind an OpenAI-compatible address, with a head that reads its verdict.

A model of this size does not judge by itself: it prefers [[YES]] for every pair. So a linear head on its last hidden
state is fitted when the server starts, on labelled pairs: those of the judge's health check, which a run asks first,
and others. Every verdict is a forward pass of the whole prompt. Started as::

    python tests/verdict_server.py MODEL_FOLDER PORT
"""

import sys
import threading

import torch
from endpoint_server import payload, serve_forever
from transformers import AutoModelForCausalLM, AutoTokenizer

from qwenlong_core.rewards.health import PAIRS as FIXED_PAIRS
from qwenlong_core.rewards.judge_prompt import judge_messages

OTHERS = (
    ("Where did the parrot speak?", "Lisbon", "in the city of Lisbon", True),
    ("Where did the parrot speak?", "Lisbon", "Oslo", False),
    ("Near which city does she live?", "Dublin", "near Dublin", True),
    ("Near which city does she live?", "Dublin", "Athens", False),
    ("On how many languages is it trained?", "10 languages", "ten", True),
    ("On how many languages is it trained?", "10 languages", "12", False),
    ("What was the profit?", "60.0", "$60 million", True),
    ("What was the profit?", "60.0", "$100 million", False),
)
RIDGE = 1e-2


class Judge:
    """The model and its head; one forward pass at a time."""

    def __init__(self, folder: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder).model.eval()
        self.lock = threading.Lock()
        pairs = (*FIXED_PAIRS, *OTHERS)
        states = torch.stack([self.state(judge_messages(q, (gold,), answer)) for q, gold, answer, _ in pairs]).double()
        labels = torch.tensor([1.0 if equal else -1.0 for *_, equal in pairs], dtype=torch.double)
        self.mean = states.mean(dim=0)
        centred = states - self.mean
        gram = centred @ centred.T
        gram += RIDGE * gram.diagonal().mean() * torch.eye(len(pairs), dtype=torch.double)
        self.head = centred.T @ torch.linalg.solve(gram, labels)

    def state(self, messages: list[dict[str, str]]) -> torch.Tensor:
        ids = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        ids = ids if isinstance(ids, torch.Tensor) else ids["input_ids"]
        with self.lock, torch.inference_mode():
            return self.model(ids).last_hidden_state[0, -1]

    def reply(self, messages: list[dict[str, str]]) -> str:
        score = float((self.state(messages).double() - self.mean) @ self.head)
        return f"The pair scores {score:+.2f}.\n[[{'YES' if score > 0 else 'NO'}]]"


if __name__ == "__main__":
    judge = Judge(sys.argv[1])
    serve_forever(int(sys.argv[2]), lambda request: payload(judge.reply(request["messages"])))
