# Every target does its own set-up: a fresh clone needs Python 3.11+ and a package index, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Of the packages' 50,000 files a tenth is ever imported: Python compiles those when it first imports them. The install
# imports most of them, in two processes, for environments that forbid Python to write bytecode.
unexport PYTHONDONTWRITEBYTECODE
IMPORTED := evidently, labs.cli, monitoring.run, statsmodels.api
IMPORTED_TOO := llmops.eval_runs.evaluations, mlflow.genai, ragas, service.app, transformers
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help install demo demo-services test test-all check bench bench-full docs site lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(VENV)/.runtime ## make .venv with the locked runtime dependencies

demo: $(VENV)/.runtime ## run the whole loop on a real model; quick when repeated
	$(BIN)/llmops demo

demo-services: $(VENV)/.test ## run it on PostgreSQL, S3, MLflow's server and Valkey, with two gateways
	$(BIN)/python -m deploy.services.demo

test: $(VENV)/.test ## run the tests (minutes)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile --no-loadscope-reorder

test-all: $(VENV)/.test-all ## run the tests, the slow ones too
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --hypothesis-profile draw

check: $(VENV)/.test ## lint, types, manifests, import rules, docs freshness
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy & types=$$!; \
	$(BIN)/python -m deploy.kubernetes.check && $(BIN)/python -m pytest -q tests/test_architecture.py tests/test_docs.py tests/test_site.py; \
	rest=$$?; wait $$types && exit $$rest

bench: $(VENV)/.test-all ## measure this build against its goals of speed and memory (within 45 minutes)
	$(BIN)/python -m benchmarks goals

bench-full: $(VENV)/.test-all ## reproduce every claim of the docs about speed and false alarms (hours)
	$(BIN)/python -m benchmarks

docs: $(VENV)/.test ## write the generated pages of docs/
	$(BIN)/python docs/generate.py

site: $(VENV)/.test ## build the course's site into site/; a broken link is an error
	$(BIN)/zensical build --strict --clean

lock: ## resolve the dependencies anew into the lock files
	sh deploy/lock.sh

clean: ## remove the environment and all local state
	rm -rf $(VENV) .llmops site .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis dist

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) pip==26.3 # that of Python 3.11 takes half a minute more to read the index

$(VENV)/.runtime: $(VENV)/bin/python requirements.lock pyproject.toml
	$(PIP_INSTALL) --requirement requirements.lock
	$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	$(BIN)/python -W ignore -c 'import $(IMPORTED)' & other=$$!; \
	$(BIN)/python -W ignore -c 'import $(IMPORTED_TOO)' && wait $$other
	touch $@

$(VENV)/.test: $(VENV)/.runtime requirements-test.lock
	$(PIP_INSTALL) --requirement requirements-test.lock
	$(BIN)/python -m deploy.kubernetes.helm
	touch $@

$(VENV)/.test-all: $(VENV)/.test requirements-test-all.lock
	$(PIP_INSTALL) --requirement requirements-test-all.lock
	touch $@
