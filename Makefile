# make repro   sets up .venv, runs the whole workflow, says where the report is
# make test    sets up .venv, runs every check and test
# make setup   sets up .venv alone
# make clean   removes .venv and caches of tools; keeps data/, runs/ and the DVC cache
#
# Needs Linux with python3.11, python3.11-venv, git and make. `source .venv/bin/activate && dvc repro` does the same job
# as `make repro`: what is set here is quiet and speed, never the result (docs/operations.md).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: repro test setup clean

PYTHON ?= python3.11
VENV := .venv
# Made again when what it was made from changes: the two files, Python, or the folder (scripts in .venv hold its path).
KEY := $(shell (cat pyproject.toml constraints.txt; pwd; $(PYTHON) --version 2>&1) | sha256sum | cut -c1-16)
STAMP := $(VENV)/made-from-$(KEY)

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export DVC_STUDIO_OFFLINE := 1
export GX_ANALYTICS_ENABLED := false
export PREFECT_SERVER_ANALYTICS_ENABLED := false
ifeq ($(shell command -v nvidia-smi),)
export DS_ACCELERATOR ?= cpu
endif

repro: setup
	@echo "== dvc repro: stages whose inputs did not change are skipped"
	dvc repro
	@echo "== done. Report: $(CURDIR)/data/report/index.html"

test: setup
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	pytest

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || \
		{ echo "ERROR: $(PYTHON) not found. Remedy: apt-get install python3.11 python3.11-venv git"; exit 1; }
	@echo "== setting up $(VENV): about three minutes and 2.6 GB, once"
	$(PYTHON) -m venv --clear $(VENV)
	PIP_CONSTRAINT=constraints.txt pip install --progress-bar off -e '.[build,test]'
	@echo "== chart scripts for 'dvc plots show' without a network"
	python -m pipelines.plots .dvc/plots.html
	dvc config --local plots.html_template plots.html
	touch $@

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
