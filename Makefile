# agent_guard: the verbs of PGXS, for a Rust extension. A newcomer on Debian with Rust needs two: make demo, make test.
# The work is done by the scripts in pg_test/bin; each says in its head what it does.
#
#   make            build the extension for the PostgreSQL of PG_CONFIG
#   make deps       install what building and testing need (Debian; says what and why, installs only what is missing)
#   make install    into that PostgreSQL (tests and the demo never need this)
#   make demo       a walk through on a throw-away server, which stays up until make demo-stop
#   make test       every suite below but test-core
#   make test-unit test-clients test-sql test-attack test-process test-drivers
#   make test-core  PostgreSQL's own regression suite, with and without the extension: no difference
#   make test-asserts  the suites that run servers, on a PostgreSQL with assertions, which it builds
#   make bench      what the guard costs (ROUNDS=…)
#   make lint       formatting, clippy, sql-check, syntax of the scripts
#   make sql        assemble sql/agent_guard--VERSION.sql from its parts

PG_CONFIG ?= pg_config
CARGO ?= cargo
DESTDIR ?=
ROUNDS ?= 40

# The tools may be missing before make deps has run: asked for when used.
PG_CONFIG_PATH = $(shell command -v $(PG_CONFIG))
MAJOR = $(shell $(PG_CONFIG) --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
VERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" agent_guard.control)
TARGET := $(or $(CARGO_TARGET_DIR),target)
SCRIPT := sql/agent_guard--$(VERSION).sql
PARTS := $(addprefix sql/,bootstrap.sql tables.sql audit.sql functions.sql views.sql sessions.sql masks.sql approvals.sql replay.sql reach.sql lint.sql privileges.sql)

export PG_CONFIG
export GUARD_TARGET := $(abspath $(TARGET))
PGRX_ENV = PGRX_PG_CONFIG_PATH="$(PG_CONFIG_PATH)"
FEATURES = --no-default-features --features pg$(MAJOR)

.PHONY: all build deps install uninstall demo demo-stop test test-unit test-clients test-sql test-attack test-process \
        test-drivers test-core test-asserts test-on-asserts bench lint sql sql-check clean

all: build

build: deps
	$(PGRX_ENV) $(CARGO) build --release $(FEATURES)

deps:
	@pg_test/bin/deps

install: build
	install -d '$(DESTDIR)$(shell $(PG_CONFIG) --pkglibdir)' '$(DESTDIR)$(shell $(PG_CONFIG) --sharedir)/extension'
	install -m 755 $(TARGET)/release/libagent_guard.so '$(DESTDIR)$(shell $(PG_CONFIG) --pkglibdir)/agent_guard.so'
	install -m 644 agent_guard.control sql/agent_guard--*.sql '$(DESTDIR)$(shell $(PG_CONFIG) --sharedir)/extension/'

uninstall:
	rm -f '$(DESTDIR)$(shell $(PG_CONFIG) --pkglibdir)/agent_guard.so'
	rm -f '$(DESTDIR)$(shell $(PG_CONFIG) --sharedir)/extension/agent_guard.control'
	rm -f '$(DESTDIR)$(shell $(PG_CONFIG) --sharedir)'/extension/agent_guard--*.sql

demo: build
	@pg_test/demo/demo.sh

demo-stop:
	@GUARD_HOME='$(GUARD_TARGET)/demo' pg_test/bin/server remove
	@echo 'The demo server is gone.'

test: build
	@pg_test/bin/run-tests

test-unit:
	@pg_test/bin/run-tests unit

test-clients:
	@pg_test/bin/run-tests clients

test-sql: build
	@pg_test/bin/run-tests regress isolation

test-attack: build
	@pg_test/bin/run-tests attack

test-process: build
	@pg_test/bin/run-tests process

test-drivers: build
	@pg_test/bin/run-tests drivers

test-core: build
	@pg_test/bin/test-core

# Beside the ordinary build: the extension is compiled against that server's headers.
test-asserts:
	@pg_test/bin/deps asserts
	@pg_config=$$(pg_test/bin/pg-asserts) && $(MAKE) --no-print-directory test-on-asserts PG_CONFIG="$$pg_config" \
	    CARGO_TARGET_DIR='$(GUARD_TARGET)/asserts'

test-on-asserts: build
	@pg_test/bin/run-tests regress isolation attack process

bench: build
	@pg_test/bin/bench --rounds=$(ROUNDS)
	@pg_test/bin/bench-masks

lint: deps
	$(CARGO) fmt --check
	$(CARGO) clippy --no-default-features --all-targets -- -D warnings
	$(PGRX_ENV) $(CARGO) clippy $(FEATURES) -- -D warnings
	@pg_test/bin/lint-scripts
	@$(MAKE) --no-print-directory sql-check

sql: $(SCRIPT)

$(SCRIPT): $(PARTS)
	pg_test/bin/assemble $(PARTS) >$@.new
	mv -f $@.new $@

sql-check: build
	@pg_test/bin/sql-check $(SCRIPT) $(TARGET)/release/libagent_guard.so $(PARTS)

clean:
	@pg_test/bin/clean
	$(CARGO) clean
