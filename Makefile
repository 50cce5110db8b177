# Everything starts from python3 and make; see `make help`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install lock demo up down check format test test-unit bench chaos clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(INSTALLED) ## make .venv from the lock

$(INSTALLED): requirements/dev.txt requirements/uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Weighbridge needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	@echo "installing into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

lock: ## pin the dependencies anew
	$(BIN)/uv pip compile -q pyproject.toml --extra local --group dev --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-header -o requirements/dev.txt

demo: install ## run everything with real input; Ctrl-C ends it
	@$(BIN)/weighbridge demo $(ARGS)

up: install ## start the local stack in the background
	@$(BIN)/weighbridge up $(ARGS)

down: install ## stop the local stack
	@$(BIN)/weighbridge down $(ARGS)

format: install ## rewrite the code in the house format
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

check: install ## format, lint, types, import layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test-unit: install ## the tests that need no engine
	@$(BIN)/pytest tests/unit tests/simulation tests/architecture $(ARGS)

test: check ## all that CI runs
	@$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

bench: install ## measure, each speed beside a limit of the same run
	@$(BIN)/python -m bench $(ARGS)

chaos: install ## the fault tests, seeded and for longer
	@$(BIN)/pytest tests/chaos --chaos $(ARGS)

clean: ## remove the environment and the local state
	rm -rf $(VENV) .weighbridge
