# make run     Start a receiver on port 11111 that stores below ./data.
# make test    Run lint, types, build and every test, against real brokers and peers.
#              PYTEST=tests/unit/test_tracker.py runs one file, PYTEST=-n0 one test at a time.
# make soak    Run the trials of tests/adversity in full, for an hour, and print their figures.
#              OXIDICOM_TEST_SHARE=0.1 runs a tenth, OXIDICOM_TEST_SEED=N repeats a run.
# make bench   Measure this receiver and others in turn. BENCH=--quick takes two minutes.
# make sample  Build studies of invented patients, and push them from Orthanc to a receiver.
#              SAMPLE="--to HOST:PORT" sends to a running one, SAMPLE=--small takes seconds.
# make fuzz    Fuzz, guided by coverage, a minute for each target. FUZZ_SECONDS=600 takes longer,
#              FUZZ_TARGET=walk runs one target, FUZZ_TARGET=fast the compiled ones.
# make wheel   Build a wheel in dist/ for every Linux whose C library is not older than this one's.
# make lint | clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILT := $(VENV)/.built
# An environment for tests has everything that is needed to run.
INSTALLED := $(firstword $(wildcard $(VENV)/.test) $(VENV)/.run)
CORES := $(wildcard setup.py src/oxidicom/*.pyx src/oxidicom/*.pxd)
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

# The package is installed in place without build isolation, so that a changed .pyx is rebuilt in
# seconds: the build requirements of pyproject.toml are installed in the environment itself.
BUILD_REQUIRES = $(BIN)/python -c 'import shlex, tomllib; \
	print(shlex.join(tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"]))'

.PHONY: run test soak fuzz lint bench sample wheel clean debian-test debian-sample debian-fuzz
.DELETE_ON_ERROR:
.NOTPARALLEL:

run: $(INSTALLED) $(BUILT)
	@exec tools/run

# The whole suite runs three files at a time, since tests mostly wait. The longest files run first.
PARALLEL = $(if $(findstring tests/,$(PYTEST)),,-n 3 --dist loadfile --no-loadscope-reorder)

test: debian-test lint
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST)

soak: debian-test $(VENV)/.test $(BUILT)
	$(BIN)/python -m pytest tests/adversity --long $(PYTEST)

# Manifests of Kubernetes' own objects, without those of kustomize and the Prometheus operator.
KUBERNETES = $(filter-out %/kustomization.yaml %/servicemonitor.yaml,$(wildcard deploy/kubernetes/*))

lint: $(VENV)/.test $(BUILT)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/yamllint --strict deploy
	$(BIN)/check-jsonschema -q --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(BIN)/kubernetes-validate --strict --quiet $(KUBERNETES)

bench: $(VENV)/.bench $(BUILT)
	$(BIN)/python -m benchmarks $(BENCH)

sample: debian-sample $(VENV)/.sample $(BUILT)
	$(BIN)/python -m samples run build/sample $(SAMPLE)

fuzz: debian-fuzz $(VENV)/.fuzz
	PYTHON=$(BIN)/python tools/fuzz build
	PYTHON=$(BIN)/python FUZZ_SECONDS='$(FUZZ_SECONDS)' tools/fuzz run $(FUZZ_TARGET)

wheel: $(VENV)/.wheel
	@rm -rf build/wheel
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir build/wheel .
	PYTHON=$(BIN)/python tools/audited-wheel build/wheel/*.whl dist
	@ls dist/*.whl

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f src/oxidicom/_*.c src/oxidicom/_*.so
	find src tests benchmarks samples -name __pycache__ -prune -exec rm -rf {} +

debian-test:
	@PYTHON='$(PYTHON)' tools/debian-packages test

debian-sample:
	@PYTHON='$(PYTHON)' tools/debian-packages sample

debian-fuzz:
	@PYTHON='$(PYTHON)' tools/debian-packages fuzz

$(BIN)/python:
	@PYTHON='$(PYTHON)' tools/debian-packages build
	$(PYTHON) -m venv $(VENV)

$(VENV)/.requires: pyproject.toml | $(BIN)/python
	@echo 'Installing into $(VENV) …'
	@$(BUILD_REQUIRES) | xargs $(PIP) install
	@touch $@

$(VENV)/.run: $(VENV)/.requires
	$(PIP) install --no-build-isolation -e .
	@touch $@ $(BUILT)

$(VENV)/.bench: $(VENV)/.requires
	$(PIP) install --no-build-isolation -e '.[bench]'
	@touch $@ $(BUILT)

$(VENV)/.sample: $(VENV)/.requires
	$(PIP) install --no-build-isolation -e '.[sample]'
	@touch $@ $(BUILT)

$(VENV)/.wheel: $(VENV)/.requires
	$(PIP) install --no-build-isolation -e '.[wheel]'
	@touch $@ $(BUILT)

$(VENV)/.fuzz: $(VENV)/.requires
	$(PIP) install --no-build-isolation -e '.[fuzz]'
	@touch $@ $(BUILT)

$(VENV)/.test: $(VENV)/.requires
	$(PIP) install --no-build-isolation -e '.[test]'
	@touch $@ $(BUILT)

# Installing builds, too. This stamp is separate, so that only changed cores are built here.
$(BUILT): $(CORES) | $(VENV)/.requires
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@
