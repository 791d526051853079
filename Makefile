# OpenNPE: `make help` lists the targets. Each sets up what it needs in .venv first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
STAMP := $(VENV)/.opennpe-stamp
TORCH := $(VENV)/.opennpe-torch-stamp
PYTEST := $(BIN)/python -m pytest
JOBS ?= 2

# Real networks and cell libraries made by others; tests that use them skip without.
ifneq ($(wildcard ../shared/data/README.md),)
export OPENNPE_EXTRA ?= $(abspath ../shared)
endif

.DEFAULT_GOAL := help
.PHONY: help install sim test fast cocotb regress bench verilog cost qat workloads bitstream lint format conformance zoo figures doctor clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## set up .venv with everything from PyPI

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11 (Debian: apt-get install python3.11 python3.11-venv)" >&2; exit 2; }
	@for tool in gcc g++ make perl; do command -v $$tool >/dev/null || { echo "$$tool is missing: install it (Debian: apt-get install gcc g++ make perl)" >&2; exit 2; }; done
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[rtl,fpga,test,lint]'
	@touch $@

$(TORCH): $(STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[qat]'
	@touch $@

sim: $(STAMP) ## run the shipped network in every format, tiles replayed on the RTL
	$(BIN)/opennpe sim quant/zoo/fashion.onnx --data quant/zoo/test.npz --calibration quant/zoo/calibration.npz \
	  --format fp4,posit4,posit8,posit16 --policy quant/zoo/mixed.toml --check 2 --out build/sim

test: $(TORCH) lint ## the proof: every test but the slow regressions
	$(PYTEST) -n $(JOBS) -m "not regress" tests

fast: $(TORCH) lint ## a useful subset in under two minutes
	$(PYTEST) -n $(JOBS) -m fast tests

cocotb: $(STAMP) ## the RTL regressions alone
	$(PYTEST) -m "rtl and not regress" tests

regress: $(TORCH) ## slow regressions: longer random campaigns, every planted bug
	$(PYTEST) -n $(JOBS) -m regress tests

bench: $(TORCH) ## speed of the simulator, as ratios within one run
	$(BIN)/opennpe bench
	$(BIN)/opennpe bench --networks

verilog: $(STAMP) ## the engine's Verilog and its manifest, in build/verilog
	$(BIN)/opennpe rtl --out build/verilog

qat: $(TORCH) ## train the small Fashion-MNIST network in FP4, Posit(4,1), Posit(8,0); needs Debian's dataset-fashion-mnist
	$(PY) scripts/qat.py

workloads: $(TORCH) ## the three workloads in float, every format before and after QAT, and mixed: one table
	$(PY) scripts/workload_table.py

bitstream: $(STAMP) ## bitstreams of an engine on three boards, and of a 4x4 array on the ULX3S, in build/fpga
	$(BIN)/opennpe fpga build icebreaker --spec FPGA_1X1
	$(BIN)/opennpe fpga build tangnano9k --spec FPGA_1X1
	$(BIN)/opennpe fpga build ulx3s --spec FPGA_1X1
	$(BIN)/opennpe fpga build ulx3s --spec ULX3S_4X4 --freq 30

cost: $(STAMP) ## areas, clock and energy from our own gates: every figure of docs/cost.md
	$(PY) scripts/cost_figures.py

lint: $(STAMP) ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(PY) scripts/typecheck.py

format: $(STAMP) ## mend formatting and what lint can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

conformance: $(STAMP) ## the ONNX operator table, docs/conformance.md
	$(PY) -m opennpe.quant.conformance --out docs/conformance.md

zoo: $(TORCH) ## train the shipped network again (needs Debian's dataset-fashion-mnist)
	$(PY) scripts/train_fashion.py

figures: $(STAMP) ## the pictures of the documentation, docs/images, from a real run
	$(PY) scripts/figures.py

doctor: $(STAMP) ## what is installed, and the cure for what is not
	$(BIN)/opennpe doctor

clean: ## remove what was generated; .venv stays
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache
