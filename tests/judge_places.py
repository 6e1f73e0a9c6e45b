"""A place for a judge without vLLM: an interpreter whose ``vllm.entrypoints.openai.api_server`` is a small server.

It takes vLLM's arguments, answers ``[[YES]]`` where the last word of gold and answer are the same, and writes its
process id and the GPUs that it may use to the file of ``--seen``, one line a start. ``--takes SECONDS`` is how long a
start takes, and ``--dies`` makes it end at once.
"""

from __future__ import annotations

from pathlib import Path

from stage_interpreters import environment

TESTS = Path(__file__).parent
SERVER = f"""
import argparse, os, re, sys, time
sys.path.insert(0, {str(TESTS)!r})
from endpoint_server import payload, serve_forever

parser = argparse.ArgumentParser()
for name in ("--model", "--served-model-name", "--host", "--seen", "--dies", "--takes"):
    parser.add_argument(name)
parser.add_argument("--port", type=int)
given = parser.parse_args()
if given.dies:
    raise SystemExit(f"out of memory: {{given.model}}")
with open(given.seen, "a") as seen:
    seen.write(f"{{os.getpid()}} {{os.environ['CUDA_VISIBLE_DEVICES']}}\\n")

time.sleep(float(given.takes or 0))

def reply(request):
    assert request["model"] == given.served_model_name == given.model
    words = re.findall(r'"([^"]*)"', request["messages"][-1]["content"])
    return payload("[[YES]]" if words[-1].split()[-1] == words[-3].split()[-1] else "[[NO]]")

serve_forever(given.port, reply)
"""


def interpreter(home: Path) -> Path:
    """An environment with this server in vLLM's place; returns its interpreter."""
    folder = home / "site/vllm/entrypoints/openai"
    folder.mkdir(parents=True)
    (folder / "api_server.py").write_text(SERVER)
    return environment(home / "venv", home / "site")
