# Two commands matter: `make demo` and `make test`. Both set up everything themselves.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LINES := permits-desk circulars-ar
export SOVEREIGN_HOME ?= $(CURDIR)/.sovereign
export SOVEREIGN_VAULT ?= $(SOVEREIGN_HOME)-vault

.PHONY: help setup prepare demo test check up bench clean

help:
	@echo "make demo    from raw corpus to registered adapters, both demonstration lines"
	@echo "make test    all tests"
	@echo "make up      Dagster UI and daemon on http://127.0.0.1:3000, MLflow on http://127.0.0.1:5000"
	@echo "make check   format, lint, types"
	@echo "make bench   what the figures in the README come from"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (some minutes the first time) …"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "Python 3.11 is needed: make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --progress-bar off --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

# What an institution does once: the base model, and the key pair of the vault (on an offline machine, in earnest).
prepare: setup
	@$(BIN)/sovereign models fetch smollm2-135m-instruct
	@test -f $(SOVEREIGN_HOME)/vault.pub || $(BIN)/sovereign-vault keygen \
		--private $(SOVEREIGN_HOME)-offline/vault.key --public $(SOVEREIGN_HOME)/vault.pub

demo: prepare
	@$(BIN)/sovereign run $(LINES)

test: setup
	@$(BIN)/sovereign models fetch smollm2-135m-instruct
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

up: prepare
	@$(BIN)/sovereign up

bench: prepare
	@test -n "$(QUESTIONS)" || { echo "make bench QUESTIONS=DIR with the two files of benchmarks/parliament"; exit 2; }
	@$(BIN)/python benchmarks/parliament/run.py --questions "$(QUESTIONS)"

clean:
	rm -rf $(VENV)
