# The handful of commands people type. `make help` lists them; each line after `##` below is its own help.
#
# On a conda box (environment.yml) add ACTIVE=1: the active environment is used as it is, and no .venv is made.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
.PHONY: help venv serve-env report set test lint format lab push lock clean check-profile check-python

## PYTHON=python3.12     the interpreter that the environments are made with, 3.11 to 3.13 (default: python3)
PYTHON ?= python3
## SERVE_PYTHON=python3.12   the one that .venv-serve is made with, 3.11 or 3.12: Triton's wheel wants numpy 1 (default: PYTHON)
SERVE_PYTHON ?= $(PYTHON)
## PROFILE=local         the profile to run: params/PROFILE.yaml (default: smoke)
PROFILE ?= smoke
## SET="a.b=c d.e=f"     parameters to write into the profile first, e.g. SET="data.path=/rice.zip finetune.epochs=1"
SET ?=
## ARGS="-k split"       more arguments for pytest
ARGS ?=
## ACTIVE=1              use the environment that is active (conda) in place of .venv
ACTIVE ?=

ifeq ($(ACTIVE),)
BIN := $(CURDIR)/.venv/bin
ENV := .venv/.installed
else
BIN := $(dir $(shell command -v python))
ENV :=
endif
# dvc.yaml's commands say `python`: it must be this one
export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:  ## this list
	@echo "make COMMAND [VARIABLE=value ...]"; echo
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/  \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do \
		printf '%-23s %s\n' "$$name" "$$what"; done
	@echo; sed -nE 's/^## /  /p' $(MAKEFILE_LIST)

venv: $(ENV)  ## make .venv and install what requirements.lock pins, and the project

serve-env: .venv-serve/.installed  ## make .venv-serve, which holds Triton (apart from .venv: it needs numpy 1)

report: check-profile $(ENV) .venv-serve/.installed .dvc/scm-checked $(if $(SET),set)  ## run what changed of the seven notebooks and render reports/PROFILE/site/index.html
	@python -m rice_lib set-params --profile "$(PROFILE)"
	@dvc repro --pull report@$(PROFILE)
	@echo "The report: reports/$(PROFILE)/site/index.html"

set: $(ENV)
	@python -m rice_lib set-params --profile "$(PROFILE)" $(SET)

test: $(ENV) .venv-serve/.installed  ## run the tests (RICE_DATA=/images.zip adds those on real images)
	@python -m pytest $(ARGS)

lint: $(ENV)  ## check style (ruff) and types (mypy)
	@ruff check .
	@ruff format --check .
	@mypy

format: $(ENV)  ## put the code into the one style
	@ruff check --fix .
	@ruff format .

lab: $(ENV) .venv-serve/.installed  ## open the notebooks in JupyterLab
	@jupyter lab notebooks

push: $(ENV) .dvc/scm-checked  ## store data, models and reports in the DVC remote, where `make report` looks first
	@dvc push --run-cache

# A lock is made for every supported Python and platform at once. uv is needed for this alone, so it is not installed.
lock:  ## pin anew what requirements.lock and requirements-serve.lock pin
	@uv=$$(mktemp -d); trap 'rm -rf "$$uv"' EXIT; \
	$(PYTHON) -m venv "$$uv" && "$$uv/bin/pip" install --quiet uv && \
	compile() { UV_CUSTOM_COMPILE_COMMAND="make lock" "$$uv/bin/uv" pip compile --quiet --universal \
		--python-version 3.11 --upgrade "$$@"; } && \
	compile --extra cpu --extra bulk --extra grains --extra explain --extra serve --extra train --extra dev pyproject.toml --output-file requirements.lock && \
	grep -E '^(onnxruntime|pillow|tritonclient)==' requirements.lock > "$$uv/same.txt" && \
	compile requirements-serve.in --no-annotate --constraint "$$uv/same.txt" \
		--override requirements-serve-override.txt --output-file requirements-serve.lock

clean:  ## remove the environments and caches; data, models and reports stay
	@rm -rf .venv .venv-serve .pytest_cache .ruff_cache .mypy_cache .hypothesis .dvc/tmp
	@find src tests -name __pycache__ -prune -exec rm -rf {} +

check-profile:
	@test -f "params/$(PROFILE).yaml" || { \
		echo "error: params/$(PROFILE).yaml: no such profile; there are: $(basename $(notdir $(wildcard params/*.yaml)))" >&2; \
		exit 2; }

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
		echo "error: Python 3.11 to 3.13 is needed, and $(PYTHON) is $$($(PYTHON) --version 2>&1 | head -n 1);" \
			"name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: $(PYTHON) has no venv module; on Debian or Ubuntu: apt install python3-venv" >&2; exit 2; }

# --no-deps: the locks are complete, so pip has nothing left to resolve. A stamp is written when all went well.
.venv/.installed: requirements.lock pyproject.toml | check-python
	@echo "Installing what requirements.lock pins into .venv (about 6 GB: PyPI's torch brings CUDA; once, a few minutes)"
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --no-deps --requirement requirements.lock
	@.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv-serve/.installed: requirements-serve.lock | check-python
	@echo "Installing what requirements-serve.lock pins into .venv-serve (Triton; once)"
	@test -x .venv-serve/bin/python || $(SERVE_PYTHON) -m venv .venv-serve
	@.venv-serve/bin/python -m pip install --no-deps --requirement requirements-serve.lock
	@touch $@

# DVC expects git beside it; where the project came as an archive, it is told that there is none.
.dvc/scm-checked:
	@git rev-parse --git-dir >/dev/null 2>&1 || dvc config --local core.no_scm true
	@touch $@
