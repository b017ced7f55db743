# Two commands on a machine with only Python 3.11 to 3.13: `make demo` and `make test`.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
JOBS ?= 2
# One in how many of the extended tests runs: all of them, unless said otherwise.
SAMPLE ?= 1
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
SOURCES := .mypy_cache/sources

.PHONY: demo test test-slow test-extended lint bench clean

demo: $(INSTALLED)
	$(PY) -m benchmarks.demo

test: $(INSTALLED)
	$(PY) -m pytest -n $(JOBS) -m "not slow and not extended"

test-slow: $(INSTALLED)
	$(PY) -m pytest -n $(JOBS) -m slow

test-extended: $(INSTALLED)
	$(PY) -m pytest -n $(JOBS) -m extended --sample $(SAMPLE)

# mypy sees the checkout under the package's own name, whatever the folder is called, and from a folder of its own: here,
# what other packages import as `kernels` would be taken for ours.
lint: $(INSTALLED)
	$(PY) -m ruff check .
	mkdir -p $(SOURCES) && ln -sfn "$(CURDIR)" $(SOURCES)/tessera
	cd $(SOURCES) && "$(CURDIR)/$(PY)" -m mypy --config-file "$(CURDIR)/pyproject.toml" --cache-dir .. -p tessera

bench: $(INSTALLED)
	set -e; for file in $$(grep -l '^if __name__' benchmarks/*.py | grep -v demo); do \
		$(PY) -m benchmarks.$$(basename $$file .py); done

# torch first and alone: the pinned release has a CPU build, which a looser requirement would not choose.
$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Tessera needs Python 3.11, 3.12 or 3.13: make PYTHON=/path/to/python3"; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install torch==2.13.0
	$(PY) -m pip install -e '.[dev,real,mlir]'
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) build dist out *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
