# SPDX-License-Identifier: Apache-2.0
# `make` prints what there is. Everything lives in .venv and .tools; nothing outside the checkout is needed but
# git, make and Python 3.11. Set-up is redone only when a lock or pyproject.toml changes.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALL := $(PIP) install -qq --require-hashes --only-binary :all:
WORKERS ?= -n logical --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

##@ Use
.PHONY: run
run: $(VENV)/.run ## Meter this machine's GPUs, or a simulated fleet without a driver (FOR=60 ends after 60 s)
	@$(BIN)/gpuledger run $(if $(FOR),--for $(FOR))

.PHONY: observe
observe: $(VENV)/.run ## A SIMULATED fleet with Prometheus, VictoriaMetrics, Alertmanager, and Grafana if installed (FOR=600 ends)
	@$(BIN)/python tools/parts.py prometheus alertmanager victoria-metrics
	@$(BIN)/python tools/observe.py $(if $(FOR),--for $(FOR))

##@ Verify
.PHONY: test
test: $(VENV)/.test ## Install what tests need and run them (ARGS="tests/unit -k seal" to choose)
	@$(BIN)/python tools/parts.py cc pdf prometheus alertmanager victoria-metrics slurm strace chromium nvitop-exporter
	@$(BIN)/python -m pytest $(WORKERS) $(ARGS)

.PHONY: check
check: lint type arch drift ## Lint, types, import contracts, drift: all but the tests

.PHONY: lint
lint: $(VENV)/.dev ## ruff's rules and format, spelling, syntax of the shell scripts
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check
	@$(BIN)/codespell
	@for script in .ci/run tools/bootstrap tools/lock deploy/slurm/*.sh; do bash -n "$$script" || exit 1; done
	@$(BIN)/validate-pyproject pyproject.toml >/dev/null

.PHONY: type
type: $(VENV)/.dev ## mypy --strict: everything as Python 3.11, then what runs on a node as 3.10
	@$(BIN)/mypy
	@$(BIN)/mypy --python-version 3.10 common agent

.PHONY: arch
arch: $(VENV)/.dev ## Import contracts
	@$(BIN)/lint-imports --no-logo

.PHONY: arch-proof
arch-proof: $(VENV)/.dev ## Break every import contract on purpose, in a copy, and see it caught
	@$(BIN)/python tools/break_contracts.py

.PHONY: drift
drift: $(VENV)/.dev ## Generated documents are what the code says
	@$(BIN)/python tools/docs.py --check
	@PYTHONPATH=.:common:collector $(BIN)/python -m dashboards.source --check
	@for file in dashboards/*.json; do cmp -s $$file deploy/helm/gpuledger/files/$$file || \
		{ echo "the chart's copy of $$file is stale: run \`make docs\`"; exit 1; }; done

.PHONY: test-deploy
test-deploy: $(VENV)/.test .tools/deploy/.stamp ## deploy/ held against Helm, Kubernetes' schemas, compose's, hadolint, shellcheck, promtool
	@$(BIN)/python tools/parts.py prometheus alertmanager
	@GPULEDGER_TEST_DEPLOY=1 $(BIN)/python -m pytest -m deploy $(ARGS) tests/deploy

.PHONY: lean
lean: $(VENV)/.run build ## A bare gpuledger[agent] install imports without the collector's packages
	@$(BIN)/python tools/lean.py

.PHONY: soak
soak: $(VENV)/.test ## The agent for an hour, before the compiled library: nothing grows, nothing is lost (SOAK_MINUTES=10)
	@$(BIN)/python tools/parts.py cc
	@SOAK_MINUTES=$(or $(SOAK_MINUTES),60) SOAK_VIRTUAL_HOURS=$(or $(SOAK_VIRTUAL_HOURS),24) \
		$(BIN)/python -m pytest -m soak -s $(ARGS) tests/soak

.PHONY: chaos
chaos: $(VENV)/.test ## Agents and two collectors under every fault at once, from a seed (CHAOS_MINUTES=60 CHAOS_SEED=7)
	@CHAOS_MINUTES=$(or $(CHAOS_MINUTES),2) CHAOS_SEED=$(or $(CHAOS_SEED),1) \
		$(BIN)/python -m pytest -m soak -s $(ARGS) tests/chaos

.PHONY: gpu-test
gpu-test: $(VENV)/.test ## Tests that need a real NVIDIA GPU
	@$(BIN)/python -m pytest -m gpu $(ARGS)

.PHONY: bench
bench: bench-light bench-accuracy bench-scale ## All benchmarks below (40 minutes of real time)

.PHONY: bench-light
bench-light: $(VENV)/.test ## What the agent costs beside a peer; write docs/performance.md
	@$(BIN)/python tools/parts.py cc
	@PYTHONPATH=.:common:agent $(BIN)/python -m tests.perf.light $(ARGS)

.PHONY: bench-accuracy
bench-accuracy: $(VENV)/.test ## How far the agent and its peers are from the truth; write docs/accuracy.md
	@$(BIN)/python tools/parts.py cc prometheus
	@PYTHONPATH=.:common:agent $(BIN)/python -m tests.perf.accuracy $(ARGS)

.PHONY: eval
eval: $(VENV)/.test ## How good verdicts are, on the process suite and on real recordings; write docs/classification.md
	@PYTHONPATH=.:common:agent:collector $(BIN)/python -m tests.eval.report --write

.PHONY: bench-classify
bench-classify: $(VENV)/.test ## What a verdict pass over 20,000 live workloads costs; write docs/classification.md
	@PYTHONPATH=.:common:agent:collector $(BIN)/python -m tests.perf.classify --write

.PHONY: eval-programs
eval-programs: $(VENV)/.test ## Start real programs on the CPU and record their process trees (gigabytes, an hour; ARGS=torchrun)
	@PYTHONPATH=.:common:agent $(BIN)/python -m tests.programs.record $(ARGS)

.PHONY: bench-scale
bench-scale: $(VENV)/.test ## What the collector costs at a hundred thousand GPUs, beside peers; write docs/scale.md
	@$(BIN)/python tools/parts.py prometheus victoria-metrics
	@PYTHONPATH=.:common:agent:collector $(BIN)/python -m tests.perf.scale $(ARGS)

.PHONY: mutation
mutation: $(VENV)/.test ## Plant defects in a copy of the code, see each found by a test, write docs/mutation.md (minutes)
	@PYTHONPATH=. $(BIN)/python -m tests.mutation $(ARGS)

.PHONY: screenshots
screenshots: $(VENV)/.test ## Look at the pages in headless Chromium (installed if missing)
	@$(BIN)/python tools/parts.py chromium
	@$(BIN)/python -m pytest -m chromium $(ARGS)

##@ Change
.PHONY: setup
setup: $(VENV)/.dev ## Everything a developer needs in .venv

.PHONY: fmt
fmt: $(VENV)/.dev ## Format, and fix what ruff can fix
	@$(BIN)/ruff check --quiet --fix
	@$(BIN)/ruff format --quiet

.PHONY: docs
docs: $(VENV)/.dev ## Write the generated documents and dashboards
	@$(BIN)/python tools/docs.py
	@PYTHONPATH=.:common:collector $(BIN)/python -m dashboards.source
	@cp dashboards/*.json deploy/helm/gpuledger/files/dashboards/
	@cp deploy/prometheus/gpuledger.rules.yml deploy/prometheus/gpuledger.alerts.yml deploy/helm/gpuledger/files/

.PHONY: golden
golden: $(VENV)/.test ## Rewrite tests/golden from what the code says now; read the diff before you commit it
	@$(BIN)/python -m pytest -m golden --write-golden $(ARGS)

.PHONY: build
build: $(VENV)/.run ## Wheel and source archive in dist/
	@rm -rf dist
	@$(BIN)/python -m hatchling build

.PHONY: sbom
sbom: $(VENV)/.run ## Bills of materials (CycloneDX) of what the locks bring to a node and to a collector, in dist/
	@$(BIN)/python tools/sbom.py

.PHONY: wheelhouse
wheelhouse: $(VENV)/.run ## All wheels of an agent in dist/wheelhouse, installed from there alone as a proof (ARGS="3.10" to choose)
	@$(BIN)/python tools/wheelhouse.py --check $(ARGS)

.PHONY: lock
lock: $(VENV)/.pip ## Write requirements/*.txt anew (UPGRADE=1 takes the newest versions)
	@$(INSTALL) --requirement requirements/lock.txt
	@UV=$(BIN)/uv tools/lock $(if $(UPGRADE),--upgrade)

.PHONY: clean
clean: ## Remove .venv, .tools and every cache
	@rm -rf $(VENV) .tools .run dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## Print this
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- set-up, one stamp a stage ----------------------------------------------------------------------------------------

$(VENV)/.pip: requirements/pip.txt
	@echo "Setting up $(VENV)"
	@tools/bootstrap $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.pip requirements/build.txt requirements/run.txt pyproject.toml
	@echo "Installing what gpuledger needs"
	@$(INSTALL) --requirement requirements/build.txt --requirement requirements/run.txt
	@$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.run requirements/test.txt
	@echo "Installing what the tests need"
	@$(INSTALL) --requirement requirements/test.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.test requirements/dev.txt
	@echo "Installing what the checks need"
	@$(INSTALL) --requirement requirements/dev.txt
	@touch $@

.tools/deploy/.stamp: $(VENV)/.pip requirements/deploy.txt
	@echo "Installing what deploy/ is held against"
	@rm -rf .tools/deploy
	@tools/bootstrap .tools/deploy
	@.tools/deploy/bin/python -m pip --disable-pip-version-check --no-input install -qq --require-hashes \
		--only-binary :all: --requirement requirements/deploy.txt
	@touch $@
