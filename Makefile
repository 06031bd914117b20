# Every target creates .venv first, once. `make demo MODEL=fashion-mnist` serves the released model only.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo revocation serve test packaging check protos format golden results bench container-check dashboard rules

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml setup.py
	@echo "Installing into .venv: one or two minutes, longer if pip installs PyTorch with CUDA."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Offramp needs Python 3.11 or newer, got " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: install
	$(BIN)/python -m examples.demo $(MODEL)

serve: install
	$(BIN)/python -m serving --model-repository models --grpc-port 8001 --metrics-port 8002

revocation: install
	$(BIN)/python -m examples.revocation

# Each test process uses one thread, so that they do not compete. tests/conftest.py chooses their number.
test: install
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadgroup --no-loadscope-reorder

# Downloads packages: the lowest and the newest versions that the wheel allows.
packaging: install
	$(BIN)/python -m tests.offramp.versions

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m protos.generate --check

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

protos: install
	$(BIN)/python -m protos.generate

golden: install
	$(BIN)/python -m tests.training.born_again.golden_losses

results: install
	$(BIN)/python -m docs.results

dashboard: install
	$(BIN)/python -m deploy.grafana.dashboard

# promtool is in Debian's package prometheus.
rules: install
	cd deploy/prometheus && promtool check config prometheus.yaml && promtool test rules rules_test.yaml

bench: install
	$(BIN)/python -m bench.serving

# Needs root, debootstrap and a package index; no Docker.
container-check: install
	$(BIN)/python -m tests.deploy.container_check
