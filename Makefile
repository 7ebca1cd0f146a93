# make demo: the five commands on a data set that needs no download, start to end.
# make docs: docs/cli.md again, from the commands, and docs/recipe.md, from the keys of a recipe.
# make pictures: docs/figures/*.svg again, tables of dive as a terminal shows them.
# make test: lint and the whole test suite.
# make bench: what every stage costs on this CPU (bench-full: all rows; bench-gpu: on a CUDA device).
# make reproduce: the runs behind RESULTS.md that are missing, or those of RUNS="NAME ..."; resumes where it was stopped.
#   RUNS=--list prints what is there, what is missing and how long it would take, and makes nothing.
#   DATA=PATH says where CIFAR-100 is, or is downloaded to.
# make results: RESULTS.md, its figure and the table of README.md again from the records in results/.
# make torture: two hundred kills at random moments on the digits, 24 on photographs, 40 of ranks under torchrun;
#   writes results/reliability/.
# All make the environment in .venv first.

PYTHON ?= python3
VENV := .venv
DIVE := $(VENV)/bin/dive
DEMO := --config digits_lt/bbn

.PHONY: env demo docs pictures test lint torture bench bench-full bench-gpu reproduce results

env: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[demo,test]'
	touch $@

demo: env
	$(DIVE) teacher $(DEMO) --force
	$(DIVE) export-logits $(DEMO) --force
	$(DIVE) tune-tau $(DEMO) --tau 1 3 6 --power 0.5 1 --plot checkpoints/digits_lt_bbn/virtual_examples.png --force
	$(DIVE) student $(DEMO) --weight 0.5 --force
	$(DIVE) eval $(DEMO)

docs: env
	$(VENV)/bin/python tests/cli_reference.py
	$(VENV)/bin/python tests/recipe_reference.py

pictures: env
	$(VENV)/bin/python tests/terminal_pictures.py

lint: env
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# A process a core and one more, of one thread each: networks as small as those of the tests are slower by several.
test: lint
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal -m "not alone"
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m alone

bench: env
	$(VENV)/bin/python -m benchmarks.cpu

bench-full: env
	$(VENV)/bin/python -m benchmarks.cpu --full --out benchmarks/out/cpu_full.json

bench-gpu: env
	$(VENV)/bin/python -m benchmarks.gpu

torture: env
	$(VENV)/bin/python tests/torture.py --kills 200 --out results/reliability/torture.json
	$(VENV)/bin/python tests/torture.py --photographs --kills 24 --out results/reliability/photographs.json
	$(VENV)/bin/python tests/torture_training_ranks.py --kills 20 --out results/reliability/training-ranks.json
	$(VENV)/bin/python tests/torture_export_ranks.py --kills 20 --out results/reliability/export-ranks.json

reproduce: env
	$(VENV)/bin/python -m reproduction.runs $(RUNS) $(if $(DATA),--data $(DATA))

results: env
	$(VENV)/bin/python -m reproduction.report
