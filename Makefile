# The handful of commands people type. `make help` lists them; each line after `##` below is its own help.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
.PHONY: help venv serve-env report set test test-all lint format lab push lock clean check-profile check-python FORCE

## PYTHON=python3.12     the interpreter that the environments are made with, 3.11 to 3.13 (default: python3)
## SERVE_PYTHON=python3.12   the one that .venv-serve is made with, 3.11 or 3.12: Triton's wheel wants numpy 1 (default: PYTHON)
SERVE_PYTHON ?= $(PYTHON)
## PROFILE=local         the profile to run: params/PROFILE.yaml (default: smoke)
PROFILE ?= smoke
## SET="a.b=c d.e=f"     parameters to write into the profile first, e.g. SET="data.path=/rice.zip finetune.epochs=1"
SET ?=
export SET
## ARGS="-k split"       more arguments for pytest, or with `make lab` for JupyterLab: ARGS="--no-browser --port 8890"
ARGS ?=
## TORCH_INDEX=URL       take torch's CPU wheels from this simple index and leave CUDA out: 2.7 GB in place of 7.1 (default: PyPI)
## DEVICE=gpu            ONNX Runtime for NVIDIA GPUs and TensorRT in place of ONNX Runtime for CPUs (default: cpu)
## ACTIVE=1              install into the environment that is active (conda) in place of .venv
ACTIVE ?=
## DRY_RUN=1             with `make venv`: list what a new environment would hold, install nothing
DRY_RUN ?=
## UPGRADE=1             with `make lock`: the newest versions, not those locked before where they still do
UPGRADE ?=

# A .venv knows in its stamp what it was made with: DEVICE, TORCH_INDEX, PYTHON, its folder. These are what they were where
# the command does not say; a .venv made with others, for another folder, or by a command that was interrupted is made again.
# A .venv that is a link belongs to another checkout: it is used as it is, with the code of this one.
ifneq ($(DRY_RUN),)
PREFIX := .uv/dry-run
override ACTIVE :=
else ifneq ($(ACTIVE),)
PREFIX := $(shell python -c 'import sys; print(sys.prefix)')
$(if $(word 2,$(PREFIX)),$(error ACTIVE: make cannot name a file in $(PREFIX), for the space; leave ACTIVE out))
else
PREFIX := .venv
endif
MADE := $(shell test -x $(PREFIX)/bin/python && cat $(PREFIX)/.installed 2>/dev/null)
DEVICE ?= $(or $(word 1,$(MADE)),cpu)
TORCH_INDEX ?= $(filter-out pypi,$(word 2,$(MADE)))
# the third word, or all up to the folder: an interpreter's path may hold spaces
MADE_PYTHON := $(if $(MADE),$(shell made="$$(cut -d' ' -f3- $(PREFIX)/.installed)"; python="$${made%" $$(pwd -P)"}"; \
	[ "$$python" != "$$made" ] || python="$${made%% *}"; printf %s "$$python"))
PYTHON ?= $(or $(MADE_PYTHON),python3)
WANTED := $(DEVICE) $(or $(TORCH_INDEX),pypi) $(PYTHON) $(CURDIR)
MADE_SERVE := $(shell test -x .venv-serve/bin/python && cat .venv-serve/.installed 2>/dev/null)
ENV := $(PREFIX)/.installed
SERVE_ENV := .venv-serve/.installed
ifeq ($(shell test -L $(PREFIX) && test -x $(PREFIX)/bin/python && echo linked),linked)
ENV :=
export PYTHONPATH := $(CURDIR)/src
else ifneq ($(strip $(MADE)),$(strip $(WANTED)))
$(ENV): FORCE
endif
ifeq ($(shell test -L .venv-serve && test -x .venv-serve/bin/python && echo linked),linked)
SERVE_ENV :=
else ifneq ($(strip $(MADE_SERVE)),$(CURDIR))
$(SERVE_ENV): FORCE
endif
$(if $(filter cpu gpu,$(DEVICE)),,$(error DEVICE is cpu or gpu, not $(DEVICE)))

# uv: the one in PATH, unless it is older than pyproject.toml asks for; else this one, from PyPI
UV_VERSION := 0.13.9
UV_OWN := .uv/$(UV_VERSION)/uv
ifndef UV
UV := $(or $(shell uv python dir >/dev/null 2>&1 && command -v uv),$(UV_OWN))
endif
GET_UV := $(filter $(UV_OWN),$(UV))
export UV_PYTHON_DOWNLOADS := never
# else each module is compiled when it is first imported, and at every import where PYTHONDONTWRITEBYTECODE is set (as in
# many containers): half of the seconds that a notebook's imports take
export UV_COMPILE_BYTECODE := 1

# dvc.yaml's commands say `python`: it must be this one
export PATH := $(abspath $(PREFIX)/bin):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# without docstrings transformers cannot be imported, without asserts tests prove nothing
unexport PYTHONOPTIMIZE

help:  ## this list
	@echo "make COMMAND [VARIABLE=value ...]"; echo
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/  \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do \
		printf '%-23s %s\n' "$$name" "$$what"; done
	@echo; sed -nE 's/^## /  /p' $(MAKEFILE_LIST)

venv: $(ENV)  ## make .venv and install what uv.lock pins, and the project

serve-env: $(SERVE_ENV)  ## make .venv-serve, which holds Triton (apart from .venv: it needs numpy 1)

report: check-profile $(ENV) $(SERVE_ENV) .dvc/scm-checked $(if $(SET),set)  ## run what changed of the seven notebooks and render reports/PROFILE/site/index.html
	@python -m rice_lib set-params --profile "$(PROFILE)"
	@grep -qx -- "- $(PROFILE)" profiles.yaml || echo "- $(PROFILE)" >> profiles.yaml
	@dvc repro --pull report@$(PROFILE)
	@echo "The report: reports/$(PROFILE)/site/index.html"

set: $(ENV)
	@# xargs reads quotes as the shell does, and nothing else: no & nor ( has a meaning
	@printf '%s' "$$SET" | xargs python -m rice_lib set-params --profile "$(PROFILE)"

test: $(ENV) $(SERVE_ENV) $(GET_UV)  ## run the fast tests
	@python -m pytest -m "not slow" $(ARGS)

test-all: $(ENV) $(SERVE_ENV) $(GET_UV)  ## run all tests (RICE_DATA=/images.zip adds those on real images)
	@python -m pytest $(ARGS)

lint: $(ENV) $(GET_UV)  ## check uv.lock, style (ruff) and types (mypy)
	@"$(UV)" lock --check --quiet || { echo "error: uv.lock is not what pyproject.toml asks for: make lock" >&2; exit 1; }
	@ruff check .
	@ruff format --check .
	@mypy

format: $(ENV)  ## put the code into the one style
	@ruff check --fix .
	@ruff format .

lab: $(ENV) $(SERVE_ENV)  ## open the notebooks in JupyterLab
	@# as root, the only user of many containers, JupyterLab does not start without this option
	@jupyter lab notebooks $$(test "$$(id -u)" != 0 || echo --allow-root) $(ARGS)

push: $(ENV) .dvc/scm-checked  ## store data, models and reports in the DVC remote, where `make report` looks first
	@dvc push --run-cache

# Both locks are for every supported Python and platform at once. The serving environment has a lock of its own because
# Triton's wheel wants numpy 1; what both environments decode and compute with is of one version.
lock: $(GET_UV)  ## write uv.lock and requirements-serve.lock again, after an edit of pyproject.toml or requirements-serve.in
	@"$(UV)" lock $(if $(UPGRADE),--upgrade)
	@same=$$(mktemp); trap 'rm -f "$$same"' EXIT; \
	"$(UV)" export $(LIST) --frozen | grep -E '^(onnxruntime|pillow|tritonclient)==' > "$$same"; \
	UV_CUSTOM_COMPILE_COMMAND="make lock" "$(UV)" pip compile --quiet --universal --python-version 3.11 \
		$(if $(UPGRADE),--upgrade) --no-annotate --constraint "$$same" --override requirements-serve-override.txt \
		requirements-serve.in --output-file requirements-serve.lock > /dev/null

clean:  ## remove the environments and caches; data, models and reports stay
	@rm -rf .venv .venv-serve .uv .pytest_cache .ruff_cache .mypy_cache .hypothesis .dvc/tmp
	@find src tests -name __pycache__ -prune -exec rm -rf {} +

check-profile:
	@test -f "params/$(PROFILE).yaml" || { \
		echo "error: params/$(PROFILE).yaml: no such profile; there are: $(basename $(notdir $(wildcard params/*.yaml)))" >&2; \
		exit 2; }

check-python:
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
		echo "error: Python 3.11 to 3.13 is needed, and $(PYTHON) is $$("$(PYTHON)" --version 2>&1 | head -n 1);" \
			"name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: $(PYTHON) has no venv module; on Debian or Ubuntu: apt install python3-venv" >&2; exit 2; }

$(UV_OWN): | check-python
	@echo "Getting uv $(UV_VERSION) from PyPI into .uv"
	@mkdir -p $(@D); new=$$(mktemp -d .uv/new.XXXX); trap 'rm -rf "$$new"' EXIT; \
	"$(PYTHON)" -m venv "$$new" && "$$new/bin/python" -m pip install --quiet --no-deps uv==$(UV_VERSION) && \
	mv "$$new/bin/uvx" "$$new/bin/uv" $(@D)/

# $(call remade,FOLDER,STAMP,PYTHON): a folder whose stamp is not the wanted one goes; the stamp comes back when all is installed.
remade = if [ ! -x $(1)/bin/python ] || [ "$$(cat $(1)/.installed 2>/dev/null)" != "$(2)" ]; then \
		if [ -e $(1) ] || [ -L $(1) ]; then \
			echo "$(1) is left of an interrupted command, another folder or other choices: making it again"; fi; \
		rm -rf $(1); "$(UV)" venv --quiet --python "$(3)" $(1); \
	fi; rm -f $(1)/.installed

EXTRAS := $(if $(filter gpu,$(DEVICE)),--no-dev $(addprefix --extra ,gpu bulk demo grains heic serve train dev))
LIST := --quiet --no-header --no-hashes --no-annotate --no-emit-project

# With TORCH_INDEX all is installed but torch, torchvision and what nothing but these two asks for (CUDA, Triton's compiler)
$(PREFIX)/.installed: uv.lock pyproject.toml | $(GET_UV) check-python
	@$(if $(ACTIVE),,$(call remade,$(PREFIX),$(strip $(WANTED)),$(PYTHON)))
	@$(if $(TORCH_INDEX)$(DRY_RUN),,echo "Installing what uv.lock pins into $(PREFIX): 7 GB with PyPI's torch, which brings CUDA;" \
		"TORCH_INDEX=URL of CPU wheels: 2.7 GB")
	@export UV_PROJECT_ENVIRONMENT="$(abspath $(PREFIX))"; \
	names() { "$(UV)" export --locked $(LIST) $(EXTRAS) "$$@" | sed 's/[ =;].*//' | sort -u; }; \
	sync() { "$(UV)" sync --locked $(EXTRAS) $(if $(ACTIVE),--inexact) $(if $(DRY_RUN),--dry-run) "$$@"; }; \
	if [ -z "$(TORCH_INDEX)" ]; then sync; else \
		sync $$(comm -23 <(names) <(names --prune torch --prune torchvision) | sed 's/^/--no-install-package=/'); \
		"$(UV)" pip install --python $(PREFIX)/bin/python $(if $(DRY_RUN),--dry-run) --no-deps --default-index "$(TORCH_INDEX)" \
			$$("$(UV)" export --locked $(LIST) $(EXTRAS) | sed -nE 's/^(torch(vision)?==[^ ;]*).*/\1/p'); \
	fi
	@$(if $(DRY_RUN),rm -r $(PREFIX),echo "$(strip $(WANTED))" > $@)

.venv-serve/.installed: requirements-serve.lock | $(GET_UV) check-python
	@$(call remade,.venv-serve,$(CURDIR),$(SERVE_PYTHON))
	@echo "Installing what requirements-serve.lock pins into .venv-serve (Triton)"
	@"$(UV)" pip install --python .venv-serve/bin/python --no-deps --requirement requirements-serve.lock
	@echo "$(CURDIR)" > $@

# DVC expects git to know its files; where the project came as an archive, its configuration says that there is none.
.dvc/scm-checked:
	@git ls-files --error-unmatch dvc.yaml >/dev/null 2>&1 || dvc config --local core.no_scm true
	@touch $@
