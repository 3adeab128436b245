# make demo   set up .venv, send 64 digits on U-turns, print the windows, write runs/demo/report.html
# make test   set up .venv with the test tools, then style, types, layers and tests

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

.PHONY: demo test lint check-all notebook wheel clean

demo: $(VENV)/installed
	OMP_WAIT_POLICY=passive $(BIN)/turningpoint demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# All that takes too long for every change: random cases drawn anew, long statistical tests, then the benchmarks.
check-all: test
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -n 2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m long
	for script in benchmarks/*.py; do OMP_WAIT_POLICY=passive $(BIN)/python $$script || exit 1; done

# The tour of symmetry breaking, executed anew.
notebook: $(VENV)/installed
	$(PIP) -e '.[notebook]'
	OMP_NUM_THREADS=1 $(BIN)/jupyter-nbconvert --to notebook --execute --inplace docs/symmetry.ipynb

wheel: $(VENV)/installed
	$(BIN)/python -m pip wheel --disable-pip-version-check --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; accepted: make PYTHON=python3.11 (or later)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	@touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[test]'
	$(PIP) --no-deps azula==0.11.1
	@touch $(VENV)/installed $@
