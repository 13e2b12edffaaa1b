# `make tune` and `make test` set everything up; `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DEV := .venv/.installed-dev
STUDY ?= examples/digits_cnn.yaml
LOCK := $(BIN)/python -m uv pip compile --quiet --universal --upgrade --python-version 3.11 --no-annotate \
	--no-header --no-emit-index-url --no-emit-find-links pyproject.toml
PEERS := optuna smac kerastuner hebo ax dehb synetune
QUICK := random tpe bayesian peer:hyperopt peer:optuna_tpe peer:optuna_tpe_multivariate
SLOW := peer:optuna_gp peer:smac peer:skopt peer:kerastuner peer:ax peer:hebo
REGRET := $(BIN)/python -m benchmarks.regret

.DEFAULT_GOAL := help
.PHONY: help setup tune ui team test slow lint type bench peers regret docs docs-serve reference lock clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv with what tuning needs

$(STAMP): requirements/run.txt requirements/install.py pyproject.toml
	$(PYTHON) requirements/install.py
	touch $(STAMP)

$(DEV): requirements/dev.txt requirements/install.py pyproject.toml
	$(PYTHON) requirements/install.py --dev
	touch $(STAMP) $(DEV)

tune: $(STAMP) ## Tune a Keras network on the digits images (STUDY=... for another study)
	$(BIN)/hpo tune $(STUDY) $(ARGS)

ui: $(STAMP) ## Browse the studies in MLflow's UI (ARGS="--port 5001")
	$(BIN)/hpo ui $(ARGS)

team: $(DEV) ## Start a team's servers here: PostgreSQL, S3, MLflow, Prefect (docs/how-to/team.md)
	$(BIN)/python -m mlflow_server team $(ARGS)

test: $(DEV) ## Run the tests, as many files at a time as there are processors, up to 4
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

slow: $(DEV) ## Run the tests that take minutes, one a processor at a time, up to 4
	$(BIN)/python -m pytest -m slow -n logical --maxprocesses 4 --dist load

lint: $(DEV) ## Check style and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(DEV) ## Check types
	$(BIN)/mypy

bench: $(DEV) ## Measure overhead and scale beside peers, in this machine's time
	$(BIN)/python -m benchmarks

peers: $(PEERS:%=.venv-peers/%/.installed) ## Make the environments of the packages that benchmarks measure beside ours

.venv-peers/%/.installed: benchmarks/peers/%.txt
	$(PYTHON) -m venv .venv-peers/$*
	.venv-peers/$*/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

# A few minutes: make regret ARGS="--instances hpobench_mlp/car live/wine_svm --seeds 1"
regret: $(DEV) peers ## Measure regret by trial beside peers (needs HPO_BENCH_DATA; hours)
	$(REGRET) run $(QUICK) $(ARGS)
	$(REGRET) run $(QUICK) --batch 8 $(ARGS)
	$(REGRET) run $(QUICK) --group live $(ARGS)
	$(REGRET) run $(QUICK) --group live --batch 8 $(ARGS)
	$(REGRET) run $(QUICK) $(SLOW) --group panel $(ARGS)
	$(REGRET) run $(QUICK) $(SLOW) --group panel --batch 8 $(ARGS)
	$(REGRET) run $(QUICK) $(SLOW) --group live $(ARGS)
	$(REGRET) versus bayesian regret.jsonl
	$(REGRET) plot regret.jsonl --strategies $(QUICK)

reference: $(DEV) ## Renew the pages of docs/reference that follow from the code
	$(BIN)/python -m mkdocs_reference

docs: reference ## Build the documents as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

docs-serve: $(DEV) ## Show the site at http://127.0.0.1:8000 and renew it as one writes
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --dev-addr 127.0.0.1:8000

# All but PyTorch and what needs it: 3 GB, for tests that skip without them.
EXTRAS = $(addprefix --extra ,keras xgboost lightgbm catboost optuna postgres dask ray team)

lock: $(DEV) ## Renew the pins
	$(LOCK) --extra keras --output-file requirements/run.txt
	$(LOCK) $(EXTRAS) --group dev --constraint requirements/run.txt --output-file requirements/dev.txt

clean: ## Remove .venv and caches; studies stay
	rm -rf .venv .venv-peers .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
