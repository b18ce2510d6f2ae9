# Two commands matter: `make demo` and `make test`. Both set up everything themselves.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALL := $(BIN)/pip install --quiet --progress-bar off --disable-pip-version-check
# cpu: the CPU build where one is at hand (a folder of wheels, PyTorch's own index); cuda: the build of the package index.
TORCH ?= cpu
LINES := permits-desk circulars-ar
export SOVEREIGN_HOME ?= $(CURDIR)/.sovereign
export SOVEREIGN_VAULT ?= $(SOVEREIGN_HOME)-vault

.PHONY: help setup lock prepare demo test test-fast golden test-vllm coverage mutants docs check up bench bench-corpus bench-training bench-rlhf bench-evaluation bench-serving clean

help:
	@echo "make demo    from raw corpus to registered adapters, both demonstration lines"
	@echo "make test    all tests"
	@echo "make test-fast   tests that load no model, under two minutes"
	@echo "make test-vllm   the tests of both engines and of rollouts, with vLLM in an environment of its own"
	@echo "make coverage   all tests, and which lines they did not run"
	@echo "make mutants   change modules in one place at a time, and name what no test notices"
	@echo "make golden   take tiny lines through everything, and name what came out otherwise than the kept file says"
	@echo "make up      Dagster on http://127.0.0.1:3000, MLflow on :5000, review page on :8600, registry and reports on :8700, gateway on :8800"
	@echo "make check   format, lint, types, and order of imports"
	@echo "make docs    write the generated pages, and build the site: site/index.html"
	@echo "make lock    resolve requirements/*.txt again (needs uv)"
	@echo "make bench   what the figures in the README come from"
	@echo "make bench-corpus   privacy and split, beside Presidio: docs/benchmarks/corpus.md"
	@echo "make bench-training   SFT and DPO, beside stock TRL: docs/benchmarks/training.md"
	@echo "make bench-rlhf   PPO, GRPO and DPO on one reward, beside stock TRL: docs/benchmarks/rlhf.md"
	@echo "make bench-evaluation   three models, beside the lm-eval command line: docs/benchmarks/evaluation.md"
	@echo "make bench-serving   gateway, rollback, local engine and a soak, beside nginx and LiteLLM: docs/benchmarks/serving.md"

setup: $(READY)

$(READY): pyproject.toml $(wildcard requirements/*.txt)
	@echo "Installing into $(VENV), every file checked against its hash (some minutes the first time) …"
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11, 5) <= sys.version_info[:3] < (3, 12) else "Python 3.11.5 or a later 3.11 is needed: make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --require-hashes --requirement requirements/build.txt
ifeq ($(TORCH),cpu)
	@$(INSTALL) --require-hashes --requirement requirements/torch-cpu.txt 2>$(VENV)/torch.log || { \
		grep -q "HASHES\|hash" $(VENV)/torch.log && cat $(VENV)/torch.log && \
			echo "The CPU build of torch at hand is not the one of requirements/torch-cpu.txt."; \
		echo "Taking torch as the package index has it: larger, and checked against its own hash."; \
		$(INSTALL) --require-hashes --requirement requirements/torch-cuda.txt; }
else
	@$(INSTALL) --require-hashes --requirement requirements/torch-$(TORCH).txt
endif
	@$(INSTALL) --require-hashes --requirement requirements/dev.txt
	@PYTHONWARNINGS=ignore $(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $(READY)

# Resolves requirements/*.txt again from pyproject.toml; needs uv. UPGRADE=1 takes the newest versions.
lock:
	@$(PYTHON) requirements/compile.py $(if $(UPGRADE),--upgrade)

# What an institution does once: the base models, the key pair of the vault and the trust root (in production on an offline
# machine). A trust root that is there stays.
prepare: setup
	@$(BIN)/sovereign models fetch smollm2-135m-instruct
	@$(BIN)/sovereign models fetch smollm2-135m-tools
	@test -f $(SOVEREIGN_HOME)/vault.pub || $(BIN)/sovereign-vault keygen \
		--private $(SOVEREIGN_HOME)-offline/vault.key --public $(SOVEREIGN_HOME)/vault.pub
	@test -d data/trust || test -f $(SOVEREIGN_HOME)/log.pub || $(BIN)/sovereign audit key --file $(SOVEREIGN_HOME)/log.pub
	@test -d data/trust || $(BIN)/sovereign-trust demonstration data/trust $(SOVEREIGN_HOME)-keys --log $(SOVEREIGN_HOME)/log.pub

demo: prepare
	@$(BIN)/sovereign run $(LINES)

# Tests start hundreds of processes, each of which would compile the program anew where bytecode is not written.
IN_TESTS := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1
# One for each of two cores: with more, tests that wait for a moment of the clock fail by chance. The files with the most slow tests
# come first.
WORKERS ?= 2
SPREAD := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Client libraries that a test runs against the gateway (475 MB) want older versions than the pipeline.
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

# Compares digests, verdicts, gateway answers and `--json` with golden/kept.json; KEEP=1 writes it anew. Some minutes.
golden: setup
	@$(BIN)/sovereign models fetch smollm2-135m-instruct
	@$(IN_TESTS) $(BIN)/python -m sovereign_pipeline_tests.golden.run $(if $(KEEP),--keep)

# vLLM has an environment of its own (3.4 GB): its versions are others than the pipeline's. The conformance tests run over both
# engines; some minutes on two idle cores.
VLLM := .venv-vllm
$(VLLM)/.ready: requirements/vllm.txt
	@echo "Installing vLLM into $(VLLM), every file checked against its hash (some minutes the first time) …"
	@$(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/pip install --quiet --progress-bar off --disable-pip-version-check --no-deps --require-hashes --requirement $< || { \
		echo "torch and torchvision are CPU builds here: name a folder of wheels or PyTorch's own index in pip's configuration."; exit 1; }
	@touch $@

test-vllm: setup $(VLLM)/.ready
	@OMP_NUM_THREADS=1 SOVEREIGN_TEST_VLLM=$(CURDIR)/$(VLLM)/bin/python $(BIN)/pytest sovereign_pipeline_tests/serving/engines \
		sovereign_pipeline_tests/training/rlhf/test_sampling.py

coverage: setup $(CLIENTS)/.ready
	@$(BIN)/sovereign models fetch smollm2-135m-instruct
	@$(IN_TESTS) $(BIN)/pytest $(SPREAD) --cov sovereign_pipeline --cov-report term --cov-report html

# Changes modules in one place at a time and names the changes that no test notices. cosmic-ray has an environment of its own.
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

# DATA holds pii/presidio_synth_v2.json, ner/ and parliament/; see docs/benchmarks/corpus.md. About 35 minutes.
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

# DATA holds parliament/; see docs/benchmarks/training.md. 75 minutes on two idle cores with fast bfloat16 units, two and a half hours
# without (estimated). Interrupted, it goes on where it was.
bench-training: setup
	@test -n "$(DATA)" || { echo "make bench-training DATA=DIR, see docs/benchmarks/training.md"; exit 2; }
	@$(BIN)/sovereign models fetch smollm2-135m-instruct
	@$(BIN)/python -m benchmarks.training.run --questions "$(DATA)/parliament" --out "$(RESULTS)"
	@cat "$(RESULTS)/training.md"

# See docs/benchmarks/rlhf.md. MINUTES of learning for each of five arms and SEEDS: an hour and a half on two idle cores (estimated).
# Interrupted, it goes on where it was.
MINUTES ?= 3
SEEDS ?= 3
bench-rlhf: setup
	@$(BIN)/sovereign models fetch smollm2-135m-instruct
	@$(BIN)/python -W ignore -m benchmarks.rlhf.run --out "$(RESULTS)" --minutes $(MINUTES) --seeds $(SEEDS)
	@cat "$(RESULTS)/rlhf.md"

# DATA holds mmlu/ and gsm8k/; see docs/benchmarks/evaluation.md. About 25 minutes on two idle cores.
bench-evaluation: setup
	@test -n "$(DATA)" || { echo "make bench-evaluation DATA=DIR, see docs/benchmarks/evaluation.md"; exit 2; }
	@$(BIN)/sovereign models fetch smollm2-135m-instruct
	@$(BIN)/python -m benchmarks.evaluation.run --data "$(DATA)" --out "$(RESULTS)"
	@cat "$(RESULTS)/evaluation.md"

# Needs nginx (WITHOUT=nginx leaves it out). LiteLLM's proxy has a virtual environment of its own. About 40 minutes on two
# idle cores, 20 of them the soak (SOAK_MINUTES).
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
