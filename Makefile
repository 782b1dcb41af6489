# Set-up in two commands: `make quickstart` fine-tunes an encoder on solar cells, `make test` runs the tests.
PYTHON ?= python3
BIN := .venv/bin
# one process for each core; they take over what others have not begun, and most modules stay in one
SPREAD := -n logical --maxprocesses 4 --dist worksteal
test notebooks: export OMP_NUM_THREADS := 1

.PHONY: quickstart test notebooks slow lint docs site bench clean

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

clean:
	rm -rf .venv build *.egg-info

.venv/bin/python:
	$(PYTHON) -m venv .venv

# one marker file for each extra; remade when the requirements change
.venv/%: setup.cfg pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@
