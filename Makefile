# The targets set up .venv by themselves from requirements.txt; a later run starts at
# once. On another Python or other versions:
#   make test PYTHON=python3.14 REQUIREMENTS=.ci/newest.txt

PYTHON ?= $(shell python3.11 -c "" 2>/dev/null && echo python3.11 || echo python3)
REQUIREMENTS ?= requirements.txt

BIN := .venv/bin
READY := .venv/.ready-$(notdir $(REQUIREMENTS))
BUSY := .venv/.busy

export NO_MKDOCS_2_WARNING := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help site publish dist serve test quick notebooks bench clean

help:
	@echo "make site       build the site into site/"
	@echo "make publish    push site/ to the branch gh-pages of origin"
	@echo "make serve      serve it on http://127.0.0.1:8000, rebuilt at every change"
	@echo "make test       check everything"
	@echo "make quick      check the contract and what changed, in about a minute"
	@echo "make notebooks  execute notebooks whose code changed, store their outputs"
	@echo "make bench      run the measurements in benchmarks/"
	@echo "make dist       build what a release uploads, into dist/"
	@echo "make clean      remove what the others made, .venv excepted"

# A set-up that was interrupted leaves BUSY behind and starts afresh.
$(READY): $(REQUIREMENTS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; $(PYTHON) is not. Name one:" >&2; \
	  echo "  make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up .venv from $(REQUIREMENTS); this happens once."
	@if test -e $(BUSY); then rm -rf .venv; fi
	@mkdir -p .venv && rm -f .venv/.ready-* && touch $(BUSY)
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet $$(grep "^torch" $(REQUIREMENTS))
	@$(BIN)/python -m pip install --quiet --requirement $(REQUIREMENTS)
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@rm -f $(BUSY) && touch $(READY)

site: $(READY)
	@$(BIN)/mkdocs build --strict
	@echo "The site is in site/: open $(CURDIR)/site/index.html"
	@echo "or read it with search: make serve, then http://127.0.0.1:8000"

publish: $(READY)
	@$(BIN)/python -m labml_style.rendering publish

serve: $(READY)
	@$(BIN)/mkdocs serve --livereload --watch notebooks --watch labml_style \
	  --watch overrides

test: $(READY)
	@echo "Quick mode: notebooks train for fewer steps. What they claim about trained"
	@echo "results is not asserted here; make notebooks asserts it."
	$(BIN)/ruff check .
	$(BIN)/mypy
	LABML_STYLE_QUICK=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest \
	  --numprocesses logical --maxprocesses 4 --dist loadgroup --nbmake tests notebooks

# The contract suite, and the tests that bear the name of a file that changed.
CHANGED = $(wildcard $(shell { git diff --name-only HEAD; \
  git ls-files --others --exclude-standard; } | sed -n \
  -e 's|^labml_style/\([a-z_]*\)\.py$$|tests/test_\1.py|p' \
  -e 's|^\(tests/.*test_[a-z_]*\.py\)$$|\1|p' | sort -u))

quick: $(READY)
	@$(BIN)/ruff check .
	LABML_STYLE_QUICK=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" \
	  --numprocesses logical --maxprocesses 2 tests/test_contract.py $(CHANGED)

notebooks: $(READY)
	@$(BIN)/python -m labml_style.rendering notebooks
	@$(BIN)/python -m labml_style.rendering anchors

bench: $(READY)
	@set -e; found=; for file in benchmarks/*.py; do \
	  if test -f "$$file"; then found=1; $(BIN)/python "$$file"; fi; done; \
	test "$$found" || echo "benchmarks/ is empty"

dist: $(READY)
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation

clean:
	rm -rf site .cache build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache \
	  .hypothesis
	find labml_style tests -name __pycache__ -type d -prune -exec rm -rf {} +
