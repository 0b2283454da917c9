# make demo   run all three stages on a small generated dataset, on a CPU, in minutes
# make test   run lint and the tests
# make faults run all tests that kill, stop and starve runs (make test runs a subset)
# make lint   run ruff and mypy
# make .venv  create the environment used by all targets (created automatically when needed)

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test faults lint

.venv: requirements.txt constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt -c constraints.txt
	@touch .venv

demo: .venv
	$(BIN)/python -m datasets.demo data/demo --videos 160 --seed 0
	$(BIN)/python train_fine.py -gpu cpu --config configs/demo.yaml
	$(BIN)/python extract_fineFEAT.py -gpu cpu --config configs/demo.yaml
	$(BIN)/python train_coarse_fineFEAT.py -gpu cpu --config configs/demo.yaml
	$(BIN)/python -m tools.demo_summary runs/demo data/demo
	$(BIN)/python -m tools.report runs/demo

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: .venv lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs --numprocesses auto --maxprocesses 4 --dist loadfile

faults: .venv
	$(BIN)/python -m pytest -q tests/faults tests/engine tests/common -m "faults or not faults"
