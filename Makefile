# Each target makes .venv if it is missing and installs what it needs there, with the versions of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SITE ?= dist/site
QUIETLY = --quiet --disable-pip-version-check --constraint constraints.txt
INSTALL = $(BIN)/python -m pip install $(QUIETLY)
EMPTY = dist/empty/bin/python
SOURCES = setup.cfg pyproject.toml constraints.txt
RUN = $(BIN)/landscape
STUDIES = $(filter-out analyses/one_step_m1.py analyses/study.py, $(wildcard analyses/*.py))

.PHONY: help demo test test-extras test-quick test-cpus smoke docs start faults lint dist benchmark reference studies studies-full clean

help:
	@echo "make demo       train, walk, analyse and draw: what separates trained solutions from the known one"
	@echo "make test       the whole test suite"
	@echo "make test-cpus  bit identity of a member in any company, under each instruction set that this machine has"
	@echo "make test-quick the suite without run-time checks of shapes, slow tests and bit identity: while one works"
	@echo "make test-extras the tests that need numba, submitit, Dask, plotly and a browser, in the environment of make smoke"
	@echo "make smoke      each example of the documents and of every --help, each benchmark in its smallest setting"
	@echo "make docs       the documentation of this version as a site, in dist/site/VERSION"
	@echo "make start      the five-minute start in a fresh clone with an empty home, and how long it takes"
	@echo "make faults     a campaign of kills, changed files, odd commands and pairs of writers, an hour and a half"
	@echo "make lint       ruff, mypy --strict and the layers"
	@echo "make dist       the wheel, installed into an empty environment, where the README's first example is run"
	@echo "make benchmark  speed and memory beside a plain implementation and beside other tools"
	@echo "make reference  train the committed reference runs anew"
	@echo "make studies    all studies in their quick setting, a quarter of an hour on two cores; by name: python analyses/NAME.py --help"
	@echo "make studies-full the same in their full setting, at most HOURS=6 a study; finished cells are kept (docs/sources.md)"
	@echo "make clean      remove .venv and what tools have left"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "landscape needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python $(SOURCES)
	$(INSTALL) --editable '.[digits]'
	@touch $@

$(VENV)/.test: $(BIN)/python $(SOURCES)
	$(INSTALL) --editable '.[test]'
	@touch $@

$(VENV)/.studies: $(BIN)/python $(SOURCES)
	$(INSTALL) --editable '.[digits,fast]'
	@touch $@

$(VENV)/.lint: $(BIN)/python $(SOURCES)
	$(INSTALL) --editable '.[test,lint]'
	@touch $@

$(VENV)/.smoke: $(BIN)/python $(SOURCES)
	$(INSTALL) --editable '.[test,browser,benchmark,fast,zoo,slurm,dask,interactive]'
	@touch $@

$(VENV)/.docs: $(BIN)/python $(SOURCES)
	$(INSTALL) --editable '.[docs]'
	@touch $@

$(VENV)/.benchmark: $(BIN)/python $(SOURCES)
	$(INSTALL) --editable '.[benchmark,fast,browser]'
	@touch $@

demo: $(VENV)/.demo
	$(RUN) train life --m-factor 1 --seeds 0:100 -o checkpoints/demo-m1 --force
	$(RUN) train life --m-factor 4 --seeds 0:100 -o checkpoints/demo-m4 --force
	$(RUN) walk --from presolve --to checkpoints/demo-m1 --align -o analyses/demo-m1.h5 --force
	$(RUN) walk --from presolve --to checkpoints/demo-m4 --align -o analyses/demo-m4.h5 --force
	$(RUN) analyse outcomes checkpoints/demo-m1
	$(RUN) analyse outcomes checkpoints/demo-m4
	$(RUN) analyse barriers analyses/demo-m1.h5
	$(RUN) analyse barriers analyses/demo-m4.h5
	$(RUN) plot walk analyses/demo-m1.h5 analyses/demo-m4.h5 --ends aligned -o plots/demo.png --force

# Compiled modules are kept even where the environment says not to: pytest compiles each test module for each worker
# otherwise, and every process that a test starts compiles the package.
test test-quick test-cpus test-extras smoke: export PYTHONDONTWRITEBYTECODE =

# Hypothesis and torch both use every core; with one thread each, the workers do not fight.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

test-cpus: $(VENV)/.test
	$(BIN)/python .ci/test_cpus.py

# What needs the extras, in the environment that has them.
test-extras: $(VENV)/.smoke
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto tests/test_fused.py tests/test_submit.py tests/test_recorder.py tests/test_browser.py tests/test_solid.py tests/test_notebooks.py

test-quick: $(VENV)/.test
	LANDSCAPE_UNCHECKED=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto -m 'not slow and not smoke and not bitwise'

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

faults: $(VENV)/.test
	$(BIN)/python tests/faults.py

# `--smoke` of a benchmark shows that it runs; its times mean nothing.
smoke: $(VENV)/.smoke
	LANDSCAPE_UNCHECKED=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m smoke --numprocesses auto tests/test_docs.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/plain_protocol.py --smoke
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/peers.py --smoke
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/layers.py --smoke
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/certified.py --smoke
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/accuracy.py --smoke
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/alignment.py --smoke
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/coverage.py --smoke
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/passes.py --smoke
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/scale.py --smoke
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/report.py --smoke
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kernels.py --smoke
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.engines --smoke
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/zoo.py --smoke --all-verbs --require

# Each warning, such as of a link that leads nowhere, is an error. Pages of other versions that are there learn of these.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs \
		"$(SITE)/$$($(BIN)/python -c 'import landscape; print(landscape.__version__)')"
	$(BIN)/python docs/versions.py "$(SITE)"

# A clone has what is committed.
start: $(VENV)/.demo
	$(BIN)/python tests/start.py

# The environment is new and gets the wheel and its dependencies alone; then the extra that the README's Python wants.
# Modules are compiled when they are first imported, which few of torch's are. It stays, to try more in (make clean).
dist: export PYTHONDONTWRITEBYTECODE =
dist: $(VENV)/.lint
	rm -rf build dist/*.whl dist/*.tar.gz dist/empty
	$(BIN)/python -m build --outdir dist . >/dev/null
	$(PYTHON) -m venv dist/empty
	$(EMPTY) -m pip install $(QUIETLY) --no-compile dist/*.whl
	mkdir dist/commands dist/python
	cd dist/commands && ../../$(EMPTY) ../../tests/installed.py
	$(EMPTY) -m pip install $(QUIETLY) --no-compile "$$(echo dist/*.whl)[xarray]"
	cd dist/python && ../../$(EMPTY) ../../tests/installed.py --python
	rm -rf dist/commands dist/python

benchmark: $(VENV)/.benchmark
	$(BIN)/python benchmarks/plain_protocol.py
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/layers.py
	$(BIN)/python benchmarks/certified.py
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/passes.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python -m benchmarks.engines
	$(BIN)/python benchmarks/alignment.py
	$(BIN)/python benchmarks/zoo.py

reference: $(VENV)/.demo
	$(BIN)/python analyses/one_step_m1.py --force

# Finished runs are kept: interrupted, it goes on where it stopped.
studies: $(VENV)/.studies
	@set -e; for study in $(STUDIES); do $(BIN)/python $$study --quick; done

# Six hours a study: what takes longer goes on when this is repeated, or with another HOURS.
HOURS = 6
studies-full: $(VENV)/.studies
	@set -e; for study in $(STUDIES); do \
		$(BIN)/python $$study $$(grep -q cells=False $$study || echo --hours $(HOURS)); done

clean:
	rm -rf $(VENV) build dist ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
