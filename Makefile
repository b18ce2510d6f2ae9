# Two commands matter: `make demo` and `make test`. Both set up everything themselves.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALL := $(BIN)/pip install --quiet --progress-bar off --disable-pip-version-check
# cpu: the CPU build, if pip finds one (in a folder of wheels or PyTorch's own index); cuda: the build of the package index.
TORCH ?= cpu
LINES := permits-desk circulars-ar
export SOVEREIGN_HOME ?= $(CURDIR)/.sovereign
export SOVEREIGN_VAULT ?= $(SOVEREIGN_HOME)-vault

.PHONY: help setup lock prepare demo test test-fast golden test-vllm coverage mutants docs check up bench bench-corpus bench-training bench-rlhf bench-evaluation bench-serving clean

help:
	@echo "make demo    run both demonstration lines, from raw corpus to registered adapters"
	@echo "make test    run all tests"
	@echo "make test-fast   run the tests that load no model, in under two minutes"
	@echo "make test-vllm   run the engine and rollout tests, with vLLM in a separate environment"
	@echo "make coverage   run all tests, and report the lines that they did not run"
	@echo "make mutants   mutation testing: list single changes of a module that no test detects"
	@echo "make golden   run small lines through all stages, and list results that differ from the stored file"
	@echo "make up      serve Dagster on http://127.0.0.1:3000, MLflow on :5000, the review page on :8600, registry and reports on :8700, the gateway on :8800"
	@echo "make check   check format, lint, types, and order of imports"
	@echo "make docs    write the generated pages, and build the site: site/index.html"
	@echo "make lock    resolve requirements/*.txt again (needs uv)"
	@echo "make bench   measure the figures in the README"
	@echo "make bench-corpus   benchmark privacy and split against Presidio: docs/benchmarks/corpus.md"
	@echo "make bench-training   benchmark SFT and DPO against stock TRL: docs/benchmarks/training.md"
	@echo "make bench-rlhf   benchmark PPO, GRPO and DPO on one reward against stock TRL: docs/benchmarks/rlhf.md"
	@echo "make bench-evaluation   benchmark the evaluation of three models against the lm-eval command line: docs/benchmarks/evaluation.md"
	@echo "make bench-serving   benchmark gateway, rollback, local engine and a soak against nginx and LiteLLM: docs/benchmarks/serving.md"

setup: $(READY)

$(READY): pyproject.toml $(wildcard requirements/*.txt)
	@echo "Installing into $(VENV), every file checked against its hash (some minutes the first time) …"
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11, 5) <= sys.version_info[:3] < (3, 12) else "Python 3.11.5 or a later 3.11 is needed: make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --require-hashes --requirement requirements/build.txt
ifeq ($(TORCH),cpu)
	@$(INSTALL) --require-hashes --requirement requirements/torch-cpu.txt 2>$(VENV)/torch.log || { \
		grep -q "HASHES\|hash" $(VENV)/torch.log && cat $(VENV)/torch.log && \
			echo "The CPU build of torch that pip found is not the one that requirements/torch-cpu.txt pins."; \
		echo "Installing the larger build of torch from the package index, verified with its own hash."; \
		$(INSTALL) --require-hashes --requirement requirements/torch-cuda.txt; }
else
	@$(INSTALL) --require-hashes --requirement requirements/torch-$(TORCH).txt
endif
	@$(INSTALL) --require-hashes --requirement requirements/dev.txt
	@PYTHONWARNINGS=ignore $(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $(READY)

# Resolves requirements/*.txt again from pyproject.toml; needs uv. UPGRADE=1 selects the newest versions.
lock:
	@$(PYTHON) requirements/compile.py $(if $(UPGRADE),--upgrade)

# Fetches base models, and creates the vault's key pair and the trust root (in production on an offline machine). Keeps
# existing keys.
prepare: setup
	@$(BIN)/sovereign models fetch smollm2-135m-instruct
	@$(BIN)/sovereign models fetch smollm2-135m-tools
	@test -f $(SOVEREIGN_HOME)/vault.pub || $(BIN)/sovereign-vault keygen \
		--private $(SOVEREIGN_HOME)-offline/vault.key --public $(SOVEREIGN_HOME)/vault.pub
	@test -d data/trust || test -f $(SOVEREIGN_HOME)/log.pub || $(BIN)/sovereign audit key --file $(SOVEREIGN_HOME)/log.pub
	@test -d data/trust || $(BIN)/sovereign-trust demonstration data/trust $(SOVEREIGN_HOME)-keys --log $(SOVEREIGN_HOME)/log.pub

demo: prepare
	@$(BIN)/sovereign run $(LINES)

# Tests start hundreds of processes. Without written bytecode, each of them would compile the program again.
IN_TESTS := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1
# One worker for each of two cores. With more, tests that wait for a clock time fail by chance. The files with the most
# slow tests come first.
WORKERS ?= 2
SPREAD := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Client libraries that a test runs against the gateway (475 MB). They need older versions of packages than the pipeline.
CLIENTS := $(VENV)-clients
$(CLIENTS)/.ready: requirements/clients.txt
	@echo "Installing client libraries into $(CLIENTS), every file checked against its hash …"
	@$(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS)/bin/pip install --quiet --progress-bar off --disable-pip-version-check --no-deps --no-compile --require-hashes --requirement $<
	@touch $@

test: setup $(CLIENTS)/.ready
	@$(BIN)/sovereign models fetch smollm2-135m-instruct
	@$(IN_TESTS) $(BIN)/pytest $(SPREAD)

test-fast: setup
	@$(IN_TESTS) $(BIN)/pytest $(SPREAD) -m "not slow and not browser and not postgresql and not gpu"

# Compares digests, verdicts, gateway answers and `--json` with golden/kept.json; KEEP=1 rewrites the file. Takes some
# minutes.
golden: setup
	@$(BIN)/sovereign models fetch smollm2-135m-instruct
	@$(IN_TESTS) $(BIN)/python -m sovereign_pipeline_tests.golden.run $(if $(KEEP),--keep)

# vLLM has a separate environment (3.4 GB), because it needs other package versions than the pipeline. The conformance
# tests run with both engines and take some minutes on two idle cores.
VLLM := .venv-vllm
$(VLLM)/.ready: requirements/vllm.txt
	@echo "Installing vLLM into $(VLLM), every file checked against its hash (some minutes the first time) …"
	@$(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/pip install --quiet --progress-bar off --disable-pip-version-check --no-deps --require-hashes --requirement $< || { \
		echo "torch and torchvision are CPU builds here: add a folder of wheels or PyTorch's own index to pip's configuration."; exit 1; }
	@touch $@

test-vllm: setup $(VLLM)/.ready
	@OMP_NUM_THREADS=1 SOVEREIGN_TEST_VLLM=$(CURDIR)/$(VLLM)/bin/python $(BIN)/pytest sovereign_pipeline_tests/serving/engines \
		sovereign_pipeline_tests/training/rlhf/test_sampling.py

coverage: setup $(CLIENTS)/.ready
	@$(BIN)/sovereign models fetch smollm2-135m-instruct
	@$(IN_TESTS) $(BIN)/pytest $(SPREAD) --cov sovereign_pipeline --cov-report term --cov-report html

# Changes modules in one place at a time, and lists the changes that no test detects. cosmic-ray has a separate environment.
MUTANTS := $(SOVEREIGN_HOME)/mutants
mutants: setup
	@test -n "$(MODULES)" -a -n "$(TESTS)" || { echo 'make mutants MODULES="PATH ..." TESTS="PATH ..." [SAMPLE=60]'; exit 2; }
	@test -f $(MUTANTS)/.ready || { $(PYTHON) -m venv $(MUTANTS) && $(MUTANTS)/bin/pip install --quiet \
		--disable-pip-version-check cosmic-ray==8.7.0 && touch $(MUTANTS)/.ready; }
	@echo $(CURDIR)/$(VENV)/lib/python3.11/site-packages > $(MUTANTS)/lib/python3.11/site-packages/pipeline.pth
	@OMP_NUM_THREADS=1 $(MUTANTS)/bin/python -m benchmarks.mutants $(MODULES) --tests $(TESTS) --sample $(or $(SAMPLE),60)

docs: setup
	@PYTHONPATH=$(CURDIR) $(BIN)/python docs/make.py
	@$(BIN)/python docs/site/build.py site

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

up: prepare
	@$(BIN)/sovereign up

bench: prepare
	@test -n "$(QUESTIONS)" || { echo "make bench QUESTIONS=DIR with the two files of benchmarks/parliament"; exit 2; }
	@$(BIN)/python benchmarks/parliament/run.py --questions "$(QUESTIONS)"

# DATA contains pii/presidio_synth_v2.json, ner/ and parliament/; see docs/benchmarks/corpus.md. About 35 minutes.
RESULTS ?= $(SOVEREIGN_HOME)/benchmarks
PRESIDIO := $(SOVEREIGN_HOME)/presidio/bin/python
bench-corpus: setup
	@test -n "$(DATA)" || { echo "make bench-corpus DATA=DIR, see docs/benchmarks/corpus.md"; exit 2; }
	@test -x $(PRESIDIO) || $(PYTHON) -m venv $(dir $(PRESIDIO))..
	@$(PRESIDIO) -m pip install --quiet --disable-pip-version-check -r benchmarks/corpus/presidio-requirements.txt
	@$(BIN)/python -W ignore benchmarks/corpus/privacy_quality.py --set synthetic="$(DATA)/pii/presidio_synth_v2.json" \
		--set WNUT-17="$(DATA)/ner/wnut17train.conll" --set Wojood="$(DATA)/ner/wojood_train.txt" \
		--set Wojood-val="$(DATA)/ner/wojood_val.txt" --out "$(RESULTS)" --presidio-python $(PRESIDIO)
	@$(BIN)/python -W ignore benchmarks/corpus/privacy_speed.py --questions "$(DATA)/parliament" --out "$(RESULTS)" \
		--presidio-python $(PRESIDIO)
	@$(BIN)/python -m benchmarks.corpus.split_scale --rows 10000 100000 400000 1000000 --questions "$(DATA)/parliament" \
		--out "$(RESULTS)" --page docs/benchmarks/corpus.md
	@cat "$(RESULTS)"/privacy_*.md "$(RESULTS)"/split_scale.md

# DATA contains parliament/; see docs/benchmarks/training.md. 40 minutes on two idle cores with fast bfloat16 units, two
# and a half hours without (estimated). An interrupted run resumes.
bench-training: setup
	@test -n "$(DATA)" || { echo "make bench-training DATA=DIR, see docs/benchmarks/training.md"; exit 2; }
	@$(BIN)/sovereign models fetch smollm2-135m-instruct
	@$(BIN)/python -m benchmarks.training.run --questions "$(DATA)/parliament" --out "$(RESULTS)"
	@cat "$(RESULTS)/training.md"

# See docs/benchmarks/rlhf.md. MINUTES: duration of learning for each arm and seed; there are five arms. An hour and a
# half on two idle cores (estimated). An interrupted run resumes.
MINUTES ?= 3
SEEDS ?= 3
bench-rlhf: setup
	@$(BIN)/sovereign models fetch smollm2-135m-instruct
	@$(BIN)/python -W ignore -m benchmarks.rlhf.run --out "$(RESULTS)" --minutes $(MINUTES) --seeds $(SEEDS)
	@cat "$(RESULTS)/rlhf.md"

# DATA contains mmlu/ and gsm8k/; see docs/benchmarks/evaluation.md. 16 minutes on two idle cores.
bench-evaluation: setup
	@test -n "$(DATA)" || { echo "make bench-evaluation DATA=DIR, see docs/benchmarks/evaluation.md"; exit 2; }
	@$(BIN)/sovereign models fetch smollm2-135m-instruct
	@$(BIN)/python -m benchmarks.evaluation.run --data "$(DATA)" --out "$(RESULTS)"
	@cat "$(RESULTS)/evaluation.md"

# Needs nginx (WITHOUT=nginx skips it). LiteLLM's proxy has a separate environment. About 40 minutes on two idle cores,
# 20 of them for the soak test (SOAK_MINUTES).
LITELLM := $(SOVEREIGN_HOME)/litellm
SOAK_MINUTES ?= 20
bench-serving: setup
	@$(BIN)/sovereign models fetch smollm2-135m-instruct
	@test -x $(LITELLM)/bin/litellm || { $(PYTHON) -m venv $(LITELLM) && \
		$(LITELLM)/bin/pip install --quiet --disable-pip-version-check -r benchmarks/serving/litellm-requirements.txt; }
	@$(BIN)/python -W ignore -m benchmarks.serving.run --out "$(RESULTS)" --litellm $(LITELLM)/bin/litellm \
		--soak-minutes $(SOAK_MINUTES) $(if $(WITHOUT),--without $(WITHOUT))
	@cat "$(RESULTS)/serving.md"

clean:
	rm -rf $(VENV) $(CLIENTS)
