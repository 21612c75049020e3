# Everything runs in .venv, which is made from the lock file and remade when that changes.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test crash-matrix idle-soak bench bench-idle check format lint types contracts schemas lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv with everything that the lock file names

$(STAMP): requirements.lock pyproject.toml
	@echo "== installing into .venv, from requirements.lock (once; a minute or so)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flambed needs Python 3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

demo: $(STAMP) ## bring a cluster up in a pretend AWS on this machine, look at it, take it down
	@$(BIN)/python -m flambed.demo

# Most tests wait, for hosts that boot and clocks that tick: more of them at a time than there are cores.
WORKERS ?= 3
test: $(STAMP) ## run the tests
	@echo "== running the tests"
	@$(BIN)/pytest -q --seed-report --numprocesses $(WORKERS) --dist loadfile

LIVES ?= 3000
simulate: $(STAMP) ## live LIVES seeded lives (3000) over all cores, any weather; a seed that fails tells its story
	@$(BIN)/python -m tests.simulation --lives $(LIVES)

check: format lint types contracts test ## all that CI asks for

crash-matrix: $(STAMP) ## kill the service before and after every request of a whole life, in the lab
	@CRASH_MATRIX=1/1 $(BIN)/pytest -q tests/lab/test_crash_matrix.py

idle-soak: $(STAMP) ## 200 host-hours in use, in the lab, while the service dies and starts again all the time
	@IDLE_SOAK=1 $(BIN)/pytest -q -s tests/lab/test_idle_restarts.py

bench: $(STAMP) ## measure what flambed adds to a launch, in the lab
	@$(BIN)/python benchmarks/launch.py

bench-idle: $(STAMP) ## count the calls to AWS that protecting 1,000 hosts takes, in the lab
	@$(BIN)/python benchmarks/idle.py

format: $(STAMP)
	@echo "== format"
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ."; exit 1; }

lint: $(STAMP)
	@echo "== lint"
	@$(BIN)/ruff check --quiet .

types: $(STAMP)
	@echo "== types"
	@$(BIN)/mypy --no-error-summary

contracts: $(STAMP)
	@echo "== import contracts"
	@$(BIN)/lint-imports --no-cache > .venv/contracts.txt || { cat .venv/contracts.txt; exit 1; }

schemas: $(STAMP) ## write the generated files again: config/*.schema.json, docs/events.md
	@$(BIN)/flambed schema cluster > config/cluster.schema.json
	@$(BIN)/flambed schema settings > config/settings.schema.json
	@$(BIN)/python -c 'from flambed import log; print(log.markdown(), end="")' > docs/events.md

lock: ## resolve the lock file again (needs uv)
	uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --extra lab --group dev pyproject.toml --output-file requirements.lock

clean: ## remove what was installed and generated here
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache
