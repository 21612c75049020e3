# Everything runs in .venv, which is made from the lock file and remade when that changes.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install install-service demo test test-real simulate crash-matrix idle-soak bench bench-idle audit check format lint types contracts schemas lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv with everything that the lock file names

$(STAMP): requirements.lock pyproject.toml
	@echo "== installing into .venv, from requirements.lock (once; a minute or so)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flambed needs Python 3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

# Where the service itself goes, as root. With DESTDIR it is only put there, for who makes a package of it.
PREFIX ?= /opt/flambed
DESTDIR ?=
LIB := $(DESTDIR)/usr/local/lib
install-service: ## put the service in place, as root: PREFIX (/opt/flambed), units, users, settings; DESTDIR for packages
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flambed needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(DESTDIR)$(PREFIX)
	$(DESTDIR)$(PREFIX)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r config/service.lock
	$(DESTDIR)$(PREFIX)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps .
	$(if $(DESTDIR),find $(DESTDIR)$(PREFIX)/bin -maxdepth 1 -type f -exec sed -i '1s|^#!$(DESTDIR)|#!|' {} +)
	install -d $(DESTDIR)/usr/local/bin
	ln -sf $(PREFIX)/bin/flambectl $(DESTDIR)/usr/local/bin/flambectl
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/flambed docs/operating.md docs/events.md docs/cluster-file.md
	install -D -m 0644 -t $(LIB)/systemd/system systemd/flambed.service systemd/flambed.socket
	sed -i 's|/opt/flambed|$(PREFIX)|g' $(LIB)/systemd/system/flambed.service
	install -D -m 0644 systemd/sysusers.conf $(LIB)/sysusers.d/flambed.conf
	install -D -m 0644 systemd/tmpfiles.conf $(LIB)/tmpfiles.d/flambed.conf
	test -e $(DESTDIR)/etc/flambed/flambed.yaml || \
	  install -D -m 0644 config/flambed.yaml $(DESTDIR)/etc/flambed/flambed.yaml

demo: $(STAMP) ## bring a cluster up in a pretend AWS on this machine, look at it, take it down
	@$(BIN)/python -m flambed.demo

# Most tests wait, for hosts that boot and clocks that tick: more of them at a time than there are cores. Files go out in
# the order of their folders: the lab's come first, which last longest, and the many short ones even out the end.
WORKERS ?= 3
test: $(STAMP) ## run the tests, but for those of `make test-real`
	@echo "== running the tests"
	@$(BIN)/pytest -q --seed-report --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder \
	  --ignore tests/real

# The packages that the service needs, for a machine without a network: the tests install it there as an operator does.
WHEELS ?= .venv/packages
test-real: $(STAMP) $(WHEELS) ## run the service under a real systemd, in a throwaway root; needs root
	@echo "== running the tests with real parts"
	@WHEELS=$(WHEELS) $(BIN)/pytest -q tests/real

$(WHEELS): requirements.lock
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps -r $< -d $@
	@touch $@

LIVES ?= 3000
simulate: $(STAMP) ## live LIVES seeded lives (3000) over all cores, any weather; a seed that fails tells its story
	@$(BIN)/python -m tests.simulation --lives $(LIVES)

check: format lint types contracts test test-real ## all that CI asks for

crash-matrix: $(STAMP) ## kill the service before and after every request of a whole life, in the lab
	@CRASH_MATRIX=1/1 $(BIN)/pytest -q tests/lab/test_crash_matrix.py

idle-soak: $(STAMP) ## 200 host-hours in use, in the lab, while the service dies and starts again all the time
	@IDLE_SOAK=1 $(BIN)/pytest -q -s tests/lab/test_idle_restarts.py

# Asks PyPI, so it is no part of `check`, which needs no network. The lock file is whole: nothing is resolved.
audit: $(STAMP) ## look for known holes in everything that the lock file names
	@echo "== pip-audit"
	@$(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement requirements.lock

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

lock: ## resolve the lock files again (needs uv): all that is used here, and what the service needs of it
	uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --extra lab --group dev pyproject.toml --output-file requirements.lock
	uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --group build --constraints requirements.lock pyproject.toml --output-file config/service.lock

clean: ## remove what was installed and generated here
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache
