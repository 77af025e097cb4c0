# Two targets do everything: `make serve` and `make test`. Both install what they need into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODEL := SmolLM2-135M-Instruct
# Linux needs one of mlx's back ends; macOS has Metal in mlx itself. BACKEND=cuda12 or cuda13 for an NVIDIA card.
ifeq ($(shell uname -s),Linux)
BACKEND ?= cpu
endif
comma := ,
EXTRAS = $(if $(BACKEND),[$(BACKEND)],)
TEST_EXTRAS = $(if $(BACKEND),[$(BACKEND)$(comma)test],[test])

.PHONY: serve test bench lint types browser clean help

help:
	@echo "make serve   install, fetch the demo model, start the server and the dashboard"
	@echo "make test    install what the tests need and run all of them"
	@echo "make bench   measure the demo model without a server; BENCH='--standard' asks more of it"
	@echo "make lint    ruff check and ruff format --check"
	@echo "make types   mypy"

serve: $(VENV)/.installed
	@$(BIN)/mlx-panel models demo
	@exec $(BIN)/mlx-panel serve --model $(MODEL)

# Two files at a time: most tests wait for a process. PYTEST='-n 0' runs one after the other.
test: $(VENV)/.tested browser
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST)

bench: $(VENV)/.installed
	@$(BIN)/mlx-panel models demo
	$(BIN)/mlx-benchmark sweep --engine $(MODEL) $(BENCH)

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.tested
	$(BIN)/mypy

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mlx-panel needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ...")'
	@echo "Making the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing mlx-panel into $(VENV) (a minute or two the first time)"
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e '.$(EXTRAS)'
	@touch $@

$(VENV)/.tested: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing mlx-panel and what its tests need into $(VENV)"
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e '.$(TEST_EXTRAS)'
	@touch $@ $(VENV)/.installed

# The browser tests want a Chromium: Playwright's own where there is one, else Debian's. Without either they skip.
browser: $(VENV)/.tested
	@$(BIN)/python -m tests.browser || true

clean:
	rm -rf $(VENV) build dist *.egg-info
