# `make pipelines` and `make test` do all the set-up there is. `make help` lists the rest.
# Variables: RECIPE (a file in recipes/), RUN (folder under runs/), PYTHON (3.10 or newer), TORCH (what pip installs).

PYTHON ?= python3
TORCH  ?= torch==2.13.0
RECIPE ?= recipes/mnist.yaml
RUN    ?= default

VENV := .venv
LDM  := $(VENV)/bin/ldm
TESTS := $(VENV)/bin/python -m pytest -n auto --dist worksteal
ARGS := -c $(RECIPE) --name $(RUN) --replace
R    := runs/$(RUN)

.PHONY: help pipelines install test quick-tests test-all lint format docs bench audit clean clean-run
.DELETE_ON_ERROR:
.SUFFIXES:

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  make pipelines RECIPE=recipes/cifar10.yaml RUN=cifar10   runs another recipe into runs/cifar10"

pipelines: $(VENV)/installed  ## Images to trained model to numbers: every stage of RECIPE into runs/RUN.
	+@$(LDM) plan -c $(RECIPE) --name $(RUN) --quiet
	@if $(MAKE) --question every-stage 2>/dev/null; then \
		echo "Nothing to do: every stage of $(RECIPE) is complete in $(R). After a change of images: make clean-run."; \
	else \
		$(MAKE) --no-print-directory every-stage && \
		echo "Done: $(R). Next: source $(VENV)/bin/activate && ldm sample$(if $(filter %mnist.yaml,$(RECIPE)), --class 7) --cfg 3$(if $(filter-out default,$(RUN)), --name $(RUN))"; \
	fi

# `ldm plan` writes a rule per stage: it depends on the directories that it reads and on its own part of the recipe,
# which is rewritten only when it changed. A stage interrupted half-way goes on; one whose settings or inputs changed
# starts afresh. `touch` marks a stage that found its inputs rewritten but equal.
-include $(R)/.plan/rules.mk
every-stage: $(R)/.plan/rules.mk

$(R)/.plan/%.json: ;

install: $(VENV)/installed  ## Make .venv and install ldm into it.

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is older than 3.10: set PYTHON=python3.12 or such"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@# The metrics' reference; the torchvision that it would bring along may be built for another torch.
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "torch-fidelity>=0.4"
	@touch $@

test: $(VENV)/installed-dev  ## Lint, types and the quick tests, side by side (under 8 minutes on 2 cores).
	@$(MAKE) --no-print-directory --jobs=2 lint quick-tests

quick-tests: $(VENV)/installed-dev  ## The quick tests alone.
	$(TESTS) -m "not slow"

test-all: lint  ## Every test, the slow full counts too.
	$(TESTS)

lint: $(VENV)/installed-dev  ## ruff, its formatter and mypy.
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy -p ldm

format: $(VENV)/installed-dev  ## Format and mend what ruff can mend.
	$(VENV)/bin/ruff format
	$(VENV)/bin/ruff check --fix

docs: $(VENV)/installed-docs  ## The documentation as a site in build/site; pages made from the program are refreshed.
	$(LDM) config reference docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
	@echo "Open build/site/index.html."

$(VENV)/installed-docs: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	@touch $@

bench: $(VENV)/installed-dev  ## Measure this machine; see benchmarks/README.md.
	$(VENV)/bin/python -m benchmarks

audit: $(VENV)/installed  ## Ask the package index for known faults of what is installed (needs the network).
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=26" "pip-audit>=2.7"
	$(VENV)/bin/pip-audit --skip-editable

clean-run:  ## Remove runs/RUN.
	rm -rf $(R)

clean:  ## Remove .venv and caches; runs stay.
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
