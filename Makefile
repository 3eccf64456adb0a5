# Everything a developer does, one line each: `make help`.
# It needs make and Python 3.10 to 3.13; the rest goes into .venv.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
OLDEST := 3.10
NEWEST := 3.13

BIN := .venv/bin
SOURCES := src tests examples $(wildcard benchmarks tools)

# Nothing is resolved and nothing is compiled: the constraints name every package, with hashes.
INSTALL := -m pip install --disable-pip-version-check --require-hashes --no-deps --only-binary :all:

.PHONY: help
help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'PYTHON=python3.12 picks the interpreter; ARGS="…" goes to pytest, demo or benchmarks.'

.PHONY: install
install: .venv/installed ## Put the server and all its tools into .venv

.PHONY: demo
demo: .venv/installed ## Train a model, serve it, ask it, swap it under load
	$(BIN)/python examples/mnist/demo.py $(ARGS)

.PHONY: examples
examples: .venv/installed ## Go from training to serving on every path: ARGS="estimators litert"
	$(BIN)/python examples/run.py $(ARGS)

.PHONY: test
test: .venv/installed ## Run the tests
	$(BIN)/python -m pytest -v $(ARGS)

.PHONY: conformance
conformance: .venv/installed .cache/bin/h2spec ## Put HTTP/2 to the test of h2spec (needs Go once)
	$(BIN)/python tools/conformance.py .cache/bin/h2spec

.PHONY: clients
clients: .venv/installed ## Put the server to real clients of many languages: ARGS="grpc-go curl"
	$(BIN)/python tests/clients/run.py $(ARGS)

.PHONY: fuzz
fuzz: .venv/installed ## Fuzz each parser for a while: ARGS="--seconds 1800 --target json"
	PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

.PHONY: check
check: .venv/installed ## Check format, lint, types and the rows of the house
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

.PHONY: fmt
fmt: .venv/installed ## Format, and mend what the linter can mend
	$(BIN)/ruff check --fix-only $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

.PHONY: bench
bench: .venv/installed ## Print the standing benchmarks
	$(BIN)/python benchmarks/run.py $(ARGS)

.PHONY: protos
protos: .venv-protos/installed ## Generate what src/salver/protos holds from its .proto files
	.venv-protos/bin/python -m grpc_tools.protoc --proto_path=src --python_out=src --pyi_out=src \
		src/salver/protos/*.proto
	.venv-protos/bin/python -m grpc_tools.protoc --proto_path=src/salver/protos/public \
		--include_imports --descriptor_set_out=src/salver/protos/public.binpb \
		$(sort $(shell find src/salver/protos/public -name '*.proto'))

.PHONY: estimator-model
estimator-model: .venv/installed ## Write the Estimator exports anew, with TensorFlow 2.15
	$$($(BIN)/python examples/estimators/environment.py) tests/models/make_estimator.py tests/models/estimator

# Names, versions and hashes: no address gets into the files.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --upgrade \
	--generate-hashes --only-binary :all: --no-emit-index-url --no-header --no-annotate

.PHONY: constraints
constraints: .venv/installed ## Pin the newest versions of everything, with hashes
	$(COMPILE) pyproject.toml --extra tensorflow --extra s3 --extra http --extra litert \
		--output-file constraints.txt $(foreach group,build check demo pins test,--group $(group))
	$(COMPILE) --group protos --output-file constraints-protos.txt
	echo 'tensorflow-cpu==2.15.*' | $(COMPILE) - --output-file constraints-estimator.txt

.PHONY: clean
clean: ## Remove the environments and all caches
	rm -rf .venv .venv-* .cache .models .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call make_venv,FOLDER,NEWEST PYTHON): a clear word instead of an install that fails.
define make_venv
@$(PYTHON) -c 'import sys; number = lambda text: tuple(map(int, text.split("."))); \
	sys.exit(not number("$(OLDEST)") <= sys.version_info[:2] <= number("$(2)"))' || { \
	echo "Python $(OLDEST) to $(2) is needed; $(PYTHON) is `$(PYTHON) --version 2>&1 | head -n 1`." \
		"Try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
@$(PYTHON) -m venv $(1) || { rm -rf $(1); exit 1; }
endef

H2SPEC := github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible

.cache/bin/h2spec:
	@command -v go >/dev/null || { echo "h2spec is made with Go, which is not here: install Go," \
		"or put h2spec itself at $@" >&2; exit 1; }
	GOBIN=$(CURDIR)/$(@D) go install $(H2SPEC)

.venv/bin/python .venv-protos/bin/python:
	$(call make_venv,$(@:/bin/python=),$(NEWEST))

.venv/third-parties: constraints.txt | .venv/bin/python
	@echo "Installing the pinned packages into .venv: TensorFlow alone is over 500 MB"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python $(INSTALL) --requirement $<
	@touch $@

.venv/installed: .venv/third-parties pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation --editable .
	@touch $@

.venv-%/installed: constraints-%.txt | .venv-%/bin/python
	.venv-$*/bin/python $(INSTALL) --requirement $<
	@touch $@
