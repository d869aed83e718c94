# `make` names the targets. Every target makes .venv on a fresh machine, installs what it needs, and
# installs again only after pyproject.toml or the version changed.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

# What decides whether an installed set of extras is still right.
INPUTS := pyproject.toml src/dcwrite/_version.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check docs bench torture clean

help:
	@echo "make demo    run the demonstration"
	@echo "make test    run the tests                 (ARGS=... goes to pytest)"
	@echo "make check   run the linter, the type checker and the import contracts"
	@echo "make docs    build the documentation into docs/_build/html"
	@echo "make bench   run the benchmarks            (ARGS=... goes to benchmarks/run.py)"
	@echo "make torture run the crash proofs at full length, some 80 minutes (ARGS=\"--only kills\")"
	@echo "make clean   remove the environment and everything that was generated"
	@echo "PYTHON=python3.12 in front of any of them picks another Python (3.11 or newer)."

demo: $(VENV)/.installed-demo
	$(BIN)/dcwrite demo --overwrite $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(ARGS)

# All four run, so that one pass shows everything that is wrong.
check: $(VENV)/.installed-check
	@status=0; \
	for command in "ruff check" "ruff format --check" "mypy" "lint-imports"; do \
	    echo "$$command"; $(BIN)/$$command || status=1; \
	done; \
	exit $$status

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/run.py $(ARGS)

torture: $(VENV)/.installed-test
	$(BIN)/python benchmarks/torture.py $(ARGS)

clean:
	rm -rf $(VENV) build dist docs/_build
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each set of extras.
$(VENV)/.installed-demo:  extras = plot
$(VENV)/.installed-test:  extras = plot,test,peer
$(VENV)/.installed-check: extras = plot,dev
$(VENV)/.installed-docs:  extras = docs
$(VENV)/.installed-bench: extras = plot,cluster,peer

$(VENV)/.installed-%: $(VENV)/.made $(INPUTS)
	$(PIP) install --editable ".[$(extras)]"
	@touch $@

# An environment holds the path it was made at and one Python: in a copy of the folder, or for
# another PYTHON, it is made anew.
made_for := $(CURDIR) $(PYTHON)
ifneq ($(shell cat $(VENV)/.made 2>/dev/null),$(made_for))
.PHONY: $(VENV)/.made
endif

$(VENV)/.made:
	@command -v "$(PYTHON)" >/dev/null || { \
	    echo "dcwrite needs Python 3.11 or newer, but there is no '$(PYTHON)' here." >&2; \
	    echo "Install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "dcwrite needs Python 3.11 or newer, but '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1)." >&2; \
	    echo "Name another one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' || { \
	    echo "'$(PYTHON)' cannot make virtual environments: its modules venv and ensurepip are missing." >&2; \
	    echo "On Debian and Ubuntu the package python3-venv holds them." >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)
	@echo '$(made_for)' > $@
