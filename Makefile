# `make train ENV=kuairec` and `make test` are all that a newcomer needs; both set themselves up the first time.
.DEFAULT_GOAL := help
SHELL := /bin/bash

ENV     ?= kuairec
METHOD  ?= dsrm_hrl
WORLD   ?=
DATA    ?=
MAX_LEN ?= 30
SEEDS   ?=
OUT     ?=
ARGS    ?=
CONTROL ?=
PLAN    ?= experiments/sweep.toml
BUDGET  ?= default
PYTHON  ?= $(firstword $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do command -v $$p; done))

BIN := .venv/bin
# nothing is installed but what .lock.txt names, each file by its SHA-256
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps

# The packages that pyproject.toml allows are tested at both ends, each on a Python of its own, by a short selection that enters
# every room; the tests in full run on .constraints.txt, whose files .lock.txt names.
VERSIONS = tests/parallel/test_xla.py tests/data/test_own.py tests/simulator/test_environment.py tests/purify/test_diffusion.py \
  tests/agents/test_returns.py tests/training/test_loop.py tests/evaluation/test_sessions.py tests/config tests/runs/test_checkpoint*.py \
  tests/runs/test_run.py tests/serving tests/sweep/test_programs.py tests/cli/test_cli.py
# Two processes, each file's tests in one of them: what a file's tests share is made once.
TWO = -n 2 --dist loadfile
PYTHONS = for p in python3.11 python3.12 python3.13 python3.14 $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.1[1-4].*/bin/python; do \
  $$p -c 'import sys; print(sys.version_info.minor, sys.executable)' 2>/dev/null; done | sort -n
PYTHON_oldest ?= $(shell $(PYTHONS) | awk '$$1 >= 11 && $$1 <= 12 {print $$2; exit}')
PYTHON_newest ?= $(shell $(PYTHONS) | awk '$$1 >= 13 {print $$2; exit}')

# A named world says what nobody gave by hand.
SAID = $(if $(and $(WORLD),$(filter file,$(origin $(1)))),,$(2) $($(1)))
FLAGS = $(if $(filter sardine-%,$(WORLD)),$(call SAID,ENV,--env),--env $(ENV)) --budget $(BUDGET) --method $(METHOD) \
  $(call SAID,MAX_LEN,--max-len) \
  $(if $(WORLD),--world $(WORLD)) $(if $(DATA),--data '$(DATA)') $(if $(SEEDS),--seeds $(SEEDS)) $(if $(OUT),--out $(OUT)) \
  $(ARGS)

# the worlds' tables are of kuairand, the command's own default
WORLDS_ENV = $(if $(filter file,$(origin ENV)),,--env $(ENV))
SWEEP_BUDGET = $(if $(filter default,$(BUDGET)),,--budget $(BUDGET))

.PHONY: help setup docs train evaluate data sweep compare tune reproduce headroom ruler worlds learners probe fcpo export bench test test-all campaign test-versions test-oldest test-newest lint clean

help: ## list the targets and variables
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  ENV=$(ENV)        kuairec, kuairand, kuairec-signed, ml-100k, ml-1m, coat, log (CSV or Parquet files in DATA)"
	@echo "  METHOD=$(METHOD)   dsrm_hrl, a2c, td3, bcq, mofir, dorl, dnair, sac4ir, fcpo, flat, hrl, ... (docs/commands.md)"
	@echo "  WORLD=mood, satisfaction, platform, tolerance, retention, kuaisim, her4if, ... (empty: the paper's)"
	@echo "  BUDGET=$(BUDGET)    tiny (seconds), quick (a tenth of the paper's; sweep, compare, reproduce), default (minutes), paper (20,000 steps)"
	@echo "  DATA=folder or file of the real data (empty: ./data/ENV if it is there, else the embedded synthetic world)"
	@echo "  CONTROL=shuffled or random_goal: what reproduce takes away instead, so that claims about it must be lost"
	@echo "  ARGS=\"--data.click-column rating --data.click-from 4\": further options of train and data"
	@echo "  MAX_LEN=$(MAX_LEN)  SEEDS=\"11 15 19\"  OUT=run directory"

setup: .venv/.ready ## install everything into .venv from pinned versions

.venv/.ready: pyproject.toml experiments/pyproject.toml .lock.txt
	@test -n "$(PYTHON)" || { echo "no Python found: install Python 3.11 or newer, or run make PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11: install a newer one, or run make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "installing into .venv (once, under four minutes)"
	@$(PYTHON) -m venv .venv
	@$(PIP) --require-hashes --requirement .lock.txt
	@$(PIP) --no-build-isolation --editable '.[dev,gymnasium,gymnax]' --editable ./experiments
	@$(BIN)/python -m pip check > $@ || { cat $@ >&2; rm $@; exit 2; }

docs: .venv/.docs ## build the site into docs/_build/html: its notebooks run, warnings are errors
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --jobs 2 -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

.venv/.docs: .venv/.ready .lock-docs.txt
	@$(PIP) --require-hashes --requirement .lock-docs.txt
	@touch $@

train: setup ## train a policy, compare it with the yardsticks, write a run directory
	@$(BIN)/dsrm-jax train $(FLAGS)

evaluate: setup ## evaluate a trained run again: make evaluate OUT=runs/...
	@$(BIN)/dsrm-jax evaluate $(OUT)

data: setup ## download, check and parse the official data of ENV
	@$(BIN)/dsrm-jax data --env $(ENV) $(if $(DATA),--data '$(DATA)') $(ARGS)

sweep: setup ## run a grid of configurations on one ENV: make sweep PLAN=experiments/sweep.toml ENV=kuairec
	@$(BIN)/dsrm-jax sweep $(PLAN) --grid data.env=$(ENV) $(SWEEP_BUDGET) $(if $(OUT),--out $(OUT))

compare: setup ## every method on both worlds and session lengths, one table each
	@$(BIN)/dsrm-jax sweep experiments/baselines.toml $(SWEEP_BUDGET) $(if $(OUT),--out $(OUT))

tune: setup ## choose every method's settings by one protocol, on data that no report uses; hours, resumable
	@$(BIN)/dsrm-jax reproduce --tune $(if $(OUT),--out $(OUT)) $(if $(filter file,$(origin METHOD)),,--methods $(METHOD))

reproduce: setup ## the paper's tables, figures and claims: make reproduce ENV=all BUDGET=quick
	@$(BIN)/dsrm-jax reproduce --env $(ENV) --budget $(if $(filter default,$(BUDGET)),quick,$(BUDGET)) \
	  $(if $(DATA),--data '$(DATA)') $(if $(OUT),--out $(OUT)) $(if $(CONTROL),--control $(CONTROL))

headroom: setup ## how much of the oracle state's lead the purifier recovers
	@$(BIN)/dsrm-jax headroom --env $(ENV) --budget $(BUDGET)

ruler: setup ## measure every purifier against exact inference in small worlds
	@$(BIN)/dsrm-jax ruler --json experiments/results/ruler.json $(if $(SEEDS),--seeds $(SEEDS)) $(if $(OUT),--out $(OUT))

worlds: setup ## what there is to plan in each world: rules that know the users, beside the bound
	@$(BIN)/dsrm-jax worlds $(WORLDS_ENV) --json experiments/results/worlds.json

learners: setup ## what methods learn to win in those worlds, beside rules on the same state; hours, resumable
	@$(BIN)/dsrm-jax worlds --learners $(WORLDS_ENV) --json experiments/results/worlds_learners.json $(if $(OUT),--out $(OUT))

probe: setup ## whether the purifier purifies, beside controls that must fail
	@$(BIN)/dsrm-jax probe --env $(ENV) $(if $(DATA),--data '$(DATA)') $(if $(OUT),--out $(OUT))

fcpo: setup ## FCPO on MovieLens-100K at three limits on popular items
	@$(BIN)/dsrm-jax fcpo $(if $(DATA),--data '$(DATA)')

export: setup ## write a run's policy to one file: make export OUT=runs/...
	@$(BIN)/dsrm-jax export $(OUT)

bench: setup ## measure the paper's budget: speed, compile time, memory
	@$(BIN)/dsrm-jax bench

test: setup ## run the fast tests (under ten minutes on two cores)
	@$(BIN)/python -m pytest $(TWO)

test-all: setup ## run every test, the slow ones too
	@DSRM_FLAGS=users $(BIN)/python -m pytest $(TWO) -m 'slow or not slow'

campaign: setup ## kill, damage, fill and forge: the whole campaign of tests/reliability, resumable (hours), one class: ONLY=kills
	@DSRM_TRIALS=$${DSRM_TRIALS:-1000000} DSRM_MINUTES=$${DSRM_MINUTES:-60} \
	  $(BIN)/python -m pytest -n 0 -m slow -o timeout=0 tests/reliability $(if $(ONLY),-k "$(ONLY)")

test-versions: test-oldest test-newest ## run a short selection on the oldest and the newest packages that are supported

test-oldest test-newest: test-%:
	@if [ -z "$(PYTHON_$*)" ]; then \
	  echo "skipped: .constraints-$*.txt needs Python $(if $(filter oldest,$*),3.11 or 3.12,3.13 or newer), and there is none"; \
	else \
	  $(MAKE) --no-print-directory .venv-$*/.ready && DSRM_FLAGS=users .venv-$*/bin/python -m pytest $(TWO) $(VERSIONS); \
	fi

.venv-oldest/.ready .venv-newest/.ready: .venv-%/.ready: pyproject.toml experiments/pyproject.toml .constraints-%.txt
	@echo "installing the $* packages into .venv-$*"
	@$(PYTHON_$*) -m venv .venv-$*
	@.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --constraint .constraints-$*.txt --editable '.[dev]' --editable ./experiments
	@touch $@

lint: setup ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean: ## remove .venv and caches
	@rm -rf .venv .venv-oldest .venv-newest .pytest_cache .mypy_cache .ruff_cache .hypothesis
