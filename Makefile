# Every target sets up what it needs in .venv, without root. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
# One more worker than CPUs: many tests wait for servers that are stopped or killed.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(8, 1 + (os.cpu_count() or 1)))')
BIN := .venv/bin
BROWSER := tests/serve/browser
# A test that hangs ends its process after twenty minutes, with the stacks of its threads. No other lasts nearly so long.
NO_HANG := -o faulthandler_timeout=1200 -o faulthandler_exit_on_timeout=true
comma := ,
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow test-sglang test-sglang-versions rehearse bench bench-sglang chaos docs pictures check lint clean

# On a terminal it leaves the table, under light traffic, until Enter is pressed.
demo: .venv/demo
	$(BIN)/kvpoll replay --limit 3000 --speed 60 --seed 7 --late-rate 0.1 --reuse-rate 0.2 --keep

test: .venv/test
	$(BIN)/python -m pytest $(NO_HANG) -n $(WORKERS) --dist worksteal

# The tests with the marker slow, which need a browser or a Prometheus; those that miss theirs are skipped and say so.
test-slow: .venv/test $(BROWSER)/node_modules/.package-lock.json
	$(BIN)/python -m pytest $(NO_HANG) -m slow

# What drives the browser: the file is what npm writes last. Without npm it is left out, and the tests say so.
$(BROWSER)/node_modules/.package-lock.json: $(BROWSER)/package-lock.json
	@if command -v npm >/dev/null; then cd $(BROWSER) && npm ci --silent --ignore-scripts; \
	    else echo "no npm (on Debian: apt install npm): the browser's tests are skipped"; fi

# With the real SGLang 0.5.23, on a CPU, in its own environment.
test-sglang: .venv-sglang/project
	.venv-sglang/bin/python -m pytest $(NO_HANG) tests/sglang

# The plugin's maps on the source of each supported release of SGLang; RELEASES='0.5.12 0.5.23' for some, WRITE=1 to
# write the table of docs/sglang.md.
test-sglang-versions: .venv-sglang/project
	.venv-sglang/bin/python -m tests.sglang.releases $(RELEASES)

# The plugin by hand, with a role in each of two shells: docs/sglang.md describes it.
rehearse: .venv-sglang/project
	@.venv-sglang/bin/python -W ignore -m tests.sglang.rehearse $(ROLE)

bench: .venv/bench
	$(BIN)/python -m bench

# The plugin with the real SGLang, in the environment of test-sglang.
bench-sglang: .venv-sglang/project
	.venv-sglang/bin/python -m bench.sglang

# The pages of docs/ as a site, in build/docs.
docs: .venv/docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

# docs/pictures, from the real programs: a quarter of an hour, for charts that are full. MINUTES=1 for a try.
pictures: .venv/pictures $(BROWSER)/node_modules/.package-lock.json
	$(BIN)/python docs/draw_pictures.py --minutes $(or $(MINUTES),15)

# A few seconds per scenario, a minute with LONG=1. SEED repeats the choice of faults and calls.
chaos: .venv/test
	$(BIN)/python -m chaos $(if $(LONG),--long) $(if $(SEED),--seed $(SEED))

# Formatting, lint and types, as CI checks them. luacheck comes from the system (Debian: lua-check).
check: .venv/lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	luacheck --no-color lua

# The name that CI calls.
lint: check

clean:
	rm -rf .venv .venv-sglang $(BROWSER)/node_modules dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# UNFINISHED exists while .venv is being changed. If make finds it, the change was cut short (a closed terminal, a killed
# pip) and .venv is made anew. A pip that fails by itself changes nothing; without the trap some shells take Ctrl-C for that.
UNFINISHED := .venv/unfinished

.venv/bin/python: $(if $(wildcard $(UNFINISHED)),again)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed, which '$(PYTHON)' is not; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@rm -rf .venv && mkdir .venv && touch $(UNFINISHED)
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "creating .venv failed (on Debian: apt install python3-venv)"; exit 1; }
	@rm $(UNFINISHED)

.PHONY: again
again:
	@echo "an earlier make was interrupted: making .venv anew"

define install
@echo "installing .[$(1)] into .venv"
@touch $(UNFINISHED)
@trap 'exit 130' INT; $(BIN)/pip install --quiet --editable '.[$(1)]' || { [ $$? -gt 128 ] || rm $(UNFINISHED); exit 1; }
@rm $(UNFINISHED) && touch $@
endef

.venv/demo: .venv/bin/python pyproject.toml
	$(call install,cli$(comma)embedded$(comma)fast)

.venv/test: .venv/bin/python pyproject.toml
	$(call install,test)

.venv/bench: .venv/bin/python pyproject.toml
	$(call install,test$(comma)bench)

.venv/docs: .venv/bin/python pyproject.toml
	$(call install,docs)

.venv/pictures: .venv/test pyproject.toml
	$(call install,test$(comma)pictures)

.venv/lint: .venv/test pyproject.toml
	$(call install,test$(comma)lint)

.venv-sglang/project: tests/sglang/environment.py tests/sglang/requirements.txt pyproject.toml
	@$(PYTHON) tests/sglang/environment.py
