# make train   set up, train a small model on the embedded corpus, print its held-out loss and a sample
# make figure7 set up, train LSTMs and Transformers (PRESET=laptop, workstation), write report/index.html
# make test    set up, run the quick tests (make test-slow: the others; make test-all: both)
# make docs    set up, write the pages of the API from the docstrings into docs/api/
# make lint    set up, run the linters (style, and which room may import which)
# Setting up means: a virtual environment in .venv with seqjax and what it needs (by uv where it is there, else pip).
# Another interpreter: make PYTHON=python3.12 ...; with a GPU: make EXTRAS=test,cuda12 ...

PYTHON ?= python3
EXTRAS ?= test
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready-$(EXTRAS)

PRESET ?= laptop
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal --durations=10

.PHONY: train figure7 test test-slow test-all docs lint setup clean
.DELETE_ON_ERROR:

train: setup
	$(BIN)/seqjax train configs/quickstart.yaml

figure7: setup
	$(BIN)/python experiments/rnn_vs_transformer.py --preset $(PRESET)

test: setup
	$(PYTEST) -m "not slow" tests

test-slow: setup
	$(PYTEST) -m slow tests

test-all: test test-slow

# pdoc looks up the annotations of generated __init__ methods in the wrong module; matplotlib starts fc-list once. Names
# that seqjax.laws imports at their first use are imported before pdoc looks for them.
docs:
	@$(MAKE) --no-print-directory setup EXTRAS=docs
	PDOC_ALLOW_EXEC=1 $(BIN)/python -W error::UserWarning -W ignore:"Error parsing type annotation":UserWarning -c "from seqjax.laws import *; from pdoc.__main__ import cli; cli()" --docformat google --output-directory docs/api seqjax

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports --no-cache --no-logo

setup: $(READY)

$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: seqjax needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@if command -v uv >/dev/null 2>&1; then \
	  set -ex; [ -d $(VENV) ] || uv venv --quiet --python "$$(command -v $(PYTHON))" $(VENV); \
	  uv pip install --quiet --python $(BIN)/python -e '.[$(EXTRAS)]'; \
	else \
	  set -ex; [ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV); \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'; \
	fi
	@touch $@

clean:
	rm -rf $(VENV)
