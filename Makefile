# Everything a fresh checkout needs: each target does its own set-up (tools/bootstrap) and is safe to repeat.
.DEFAULT_GOAL := help
.PHONY: build test lint bench bench-control torture coverage demo clean help

build: ## .venv with all extras and the test tools, and the native extensions
	@tools/bootstrap

test: ## all checks and tests, with the time of each part (TESTS="tests/blocks -k grid" for some)
	@tools/test $(TESTS)

lint: build ## format, types, stubs, import rules, spelling
	@tools/lint

bench: build ## each stage beside its libraries alone and beside pure Python (BENCH_ARGS="--content-mib=1024")
	@mkdir -p .benchmarks
	@.venv/bin/pytest benchmarks --benchmark-only --benchmark-disable-gc --benchmark-columns=min,median \
		--benchmark-json=.benchmarks/last.json -o timeout=0 $(BENCH_ARGS)

bench-control: build ## the control plane alone, on PostgreSQL (BENCH_ARGS="--control-agents=100 --control-plans=1000")
	@mkdir -p .benchmarks
	@.venv/bin/pytest benchmarks/control --benchmark-only --benchmark-columns=median \
		--benchmark-json=.benchmarks/control.json -o timeout=0 $(BENCH_ARGS)

torture: build ## faults for long: MINUTES=30 SEED=1, SUITE=crash-states, or REPLAY=crash-states:1234
	@.venv/bin/python -m tests.torture $(if $(REPLAY),--replay $(REPLAY),--minutes $(or $(MINUTES),5) --seed $(or $(SEED),1) $(addprefix --suite ,$(SUITE)))

coverage: build ## tests under coverage, the Cython lines included; the normal build comes back at the end
	@tools/coverage

demo: build ## protect, change and recover a real disk, all roles as real processes (DEMO_ARGS="--json")
	@.venv/bin/dmctl demo $(DEMO_ARGS)

clean: ## remove everything that was built, the environment too
	rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks htmlcov
	rm -f .coverage .coverage.* ext/*.c ext/format.h src/dmcore/native/*.so
	find src tests benchmarks -name __pycache__ -type d -exec rm -rf {} +

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
