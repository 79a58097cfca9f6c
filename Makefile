# Each target works alone on a fresh clone: the install comes first where it is needed.

PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
BIN := .venv/bin
INSTALLED := .venv/installed

# Two test processes with one thread each: on two cores quicker than one process with two.
WORKERS ?= 2
TEST_ENV := TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
PYTEST := $(TEST_ENV) $(BIN)/pytest -n $(WORKERS) --dist loadfile --durations 10

.PHONY: help install run study test test-slow test-browser demo format clean

help:
	@echo "make install    .venv with the project (editable) and all that tests and the demo need"
	@echo "make run        every stage on the bundled tiny models; report in runs/tiny/report.html"
	@echo "make study      the arms of the study, on what make run left; may be stopped and given again"
	@echo "make test       ruff, mypy, pytest"
	@echo "make test-slow  kills, launchers, fuzz, the wheel"
	@echo "make test-browser  the demo in headless Chromium, installed with apt-get where it is missing"
	@echo "make demo       the page that shows where the bundled model looks"
	@echo "make format     ruff format and safe fixes"
	@echo "make clean      remove build output and caches (not .venv, not runs)"

install: $(INSTALLED)

$(INSTALLED): setup.py pyproject.toml
	@echo 'Installing into .venv (torch is large: this may take minutes)'
	$(PYTHON) -m venv .venv
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,demo]'
	touch $@

run: install
	$(BIN)/reflection-v run configs/tiny/run.yaml --out runs/tiny

study: run
	$(BIN)/python -m reflection_v.study configs/tiny/study/study.yaml --run runs/tiny --out runs/study
	$(BIN)/python -m reflection_v.study_report runs/study --write docs/study

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST)

test-slow: install
	$(PYTEST) -m slow

# One process: the tests share one server. CHROMIUM names another browser.
test-browser: install
	tests/browser/install_chromium
	$(TEST_ENV) $(BIN)/pytest -m browser --durations 10 tests/browser

demo: install
	$(BIN)/reflection-v demo

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
