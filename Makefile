# The one front door. Every target does its own set-up, in a virtual environment of its own.
#
#   make demo     a small shop of two services, traced without a change; shows a trace as a tree
#                 KEEP=1: leaves it running, to look at the traces in a browser
#   make test     all checks and all tests          PYTEST_ARGS='tests/wire -k compact' for some of them
#   make matrix   the tests on every other Python that this machine has (PATH and pyenv), 3.10 to 3.13
#   make check    lint, types, import contracts
#   make docs     the documentation, into build/docs
#   make pictures screenshots of the web interface, into docs/images (needs Chromium)
#   make clean    removes everything that the other targets made
#
# PYTHON chooses the interpreter (3.10 or later) that the environment is made with.

PYTHON ?= python3
PYTEST_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# All tests but those marked "alone", in parallel; those that fail are run once more, one after the other: a machine that is busy
# with the others is no fault of theirs. The first run's report stays above the second's.
beside = $(1) -m pytest -m "not alone"
tests = { $(beside) -n auto $(PYTEST_ARGS) \
	|| { code=$$?; if test $$code -ne 1; then (exit $$code); else echo "== once more, alone, what failed beside others" \
	&& $(beside) --last-failed --last-failed-no-failures none $(PYTEST_ARGS); fi; }; }

# What is built from source; without a compiler or headers its tests are skipped (README, "Tests").
native = $(1) -m pip install --quiet --disable-pip-version-check --editable '.[test-native]' \
	|| echo "== no compiler or no headers: the tests of mysqlclient and uWSGI are skipped"

.PHONY: demo test matrix check docs pictures clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py $(if $(KEEP),--keep)

test: check
	@$(call tests,$(BIN)/python); beside=$$?; $(BIN)/python -m pytest -m alone $(PYTEST_ARGS); alone=$$?; \
		case $$beside$$alone in 00|05|50) ;; *) exit 1 ;; esac # 5: among those that were asked for there is none of that kind.

matrix: $(VENV)/.test
	@for python in $$(cd tests && ../$(BIN)/python -m interpreters); do \
		venv=$(VENV)-$$(basename $$python); echo "== $$python"; \
		{ test -x $$venv/bin/python || $$python -m venv $$venv; } \
			&& $$venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' \
			&& { $(call native,$$venv/bin/python); } \
			&& $(call tests,$$venv/bin/python) || exit 1; \
	done

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy --strict autoinstr
	$(BIN)/lint-imports

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict --site-dir build/docs

pictures: $(VENV)/.test
	$(BIN)/python docs/screenshots.py

clean:
	rm -rf $(VENV) $(VENV)-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per set of dependencies: a second run installs nothing until pyproject.toml changes.
$(VENV)/.%: pyproject.toml | $(VENV)/.created
	$(PIP) --editable '.[$*]'
	$(if $(filter test,$*),$(call native,$(BIN)/python))
	touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "$(PYTHON) is not Python 3.10 or later; choose another: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	touch $@
