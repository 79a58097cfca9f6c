# Each target works alone on a fresh clone: the install comes first where it is needed.

PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
BIN := .venv/bin
INSTALLED := .venv/installed

# Two test processes with one thread each: on two cores quicker than one process with two.
WORKERS ?= 2
TEST_ENV := TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
PYTEST := $(TEST_ENV) $(BIN)/pytest -n $(WORKERS) --dist loadfile --durations 10

# The releases that make install takes; requirements/README.md says how they are kept.
LOCK := requirements/install.txt
UV := $(BIN)/uv
# make lock keeps what is locked and still allowed; UPGRADE=--upgrade takes the newest releases that setup.py allows.
UPGRADE ?=
COMPILE = $(UV) pip compile setup.py --python-version 3.11 --quiet --no-annotate --no-header $(UPGRADE)
PACKAGES := torch|torchvision|transformers|trl|accelerate|datasets|peft|deepspeed|gradio|openai|qwen-vl-utils|math-verify|reflection-v

.PHONY: help install run study test test-slow test-browser test-vllm test-newest test-lowest lock demo format clean

help:
	@echo "make install    .venv with the project (editable) and all that tests and the demo need"
	@echo "make run        every stage on the bundled tiny models; report in runs/tiny/report.html"
	@echo "make study      the arms of the study, on what make run left; may be stopped and given again"
	@echo "make test       ruff, mypy, pytest"
	@echo "make test-slow  kills, launchers, fuzz, the wheel"
	@echo "make test-browser  the demo in headless Chromium and behind nginx, both fetched with apt-get where they are missing"
	@echo "make test-vllm  vLLM's CPU build in .venv-vllm (6.5 GB, built once), and the tests of GRPO and of serving with it"
	@echo "make test-newest  the newest releases of all libraries in .venv-newest, and the tests of the seams to them"
	@echo "make test-lowest  the same with the oldest releases that setup.py allows, in .venv-lowest"
	@echo "make lock       write requirements/*.txt anew after setup.py has changed"
	@echo "make demo       the page that shows where the bundled model looks"
	@echo "make format     ruff format and safe fixes"
	@echo "make clean      remove build output and caches (not .venv, not runs)"

install: $(INSTALLED)

$(INSTALLED): setup.py pyproject.toml $(LOCK)
	@echo 'Installing into .venv (torch is large: this may take minutes)'
	$(PYTHON) -m venv .venv
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(LOCK) --editable '.[dev,demo]'
	touch $@

run: install
	$(BIN)/reflection-v run configs/tiny/run.yaml --out runs/tiny

study: run
	$(BIN)/python -m benchmarks.study.run configs/tiny/study/study.yaml --run runs/tiny --out runs/study
	$(BIN)/python -m benchmarks.study.report runs/study --write docs/study

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST)

test-slow: install
	$(PYTEST) -m slow

# One process: the tests share one server. CHROMIUM names another browser, NGINX another nginx. Without nginx, its tests are skipped.
test-browser: install
	tests/browser/install_chromium
	tests/browser/unpack_nginx || echo "!! THE TESTS BEHIND A PROXY DO NOT RUN: there is no nginx." | tee /dev/stderr
	$(TEST_ENV) $(BIN)/pytest -m browser -r s --durations 10 tests/browser

# One process: the tests share one server. TESTS='vllm and smoke' takes the part that CI runs.
TESTS ?= vllm
test-vllm: install
	tests/vllm_cpu/install
	$(TEST_ENV) .venv-vllm/bin/python -m pytest -m '$(TESTS)' -r s --durations 10 tests/vllm_cpu

# The environments are made anew each time: what is newest changes from day to day.
test-newest: install
	$(UV) venv --quiet --clear --python $(BIN)/python .venv-newest
	$(BIN)/python requirements/unbounded.py dev demo > .venv-newest/requirements.in
	DS_BUILD_OPS=0 $(UV) pip install --quiet --python .venv-newest --prerelease if-necessary --requirement .venv-newest/requirements.in
	$(UV) pip install --quiet --python .venv-newest --no-deps --editable .
	$(call TEST_SEAMS,.venv-newest)

test-lowest: install
	$(UV) venv --quiet --clear --python $(BIN)/python .venv-lowest
	DS_BUILD_OPS=0 $(UV) pip install --quiet --python .venv-lowest --resolution lowest-direct --editable '.[dev,demo]'
	$(call TEST_SEAMS,.venv-lowest)

define TEST_SEAMS
	@echo "== releases in $(1):"
	@$(UV) pip list --python $(1) --format freeze | grep -E '^($(PACKAGES))==' | tr '\n' ' '; echo
	$(TEST_ENV) $(1)/bin/python -m pytest -n $(WORKERS) --dist loadfile --durations 10 -m seam
endef

# Without install, which would first ask for the releases that are locked so far.
lock:
	test -x $(UV) || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet uv; }
	$(COMPILE) --universal --extra dev --extra demo --output-file $(LOCK)
	$(COMPILE) --universal --extra gpu --constraint $(LOCK) --output-file requirements/gpu.txt
	$(COMPILE) --extra gpu --extra vllm --output-file requirements/vllm.txt
	$(COMPILE) requirements/vllm_cpu.in --extra gpu --override requirements/vllm_cpu_overrides.txt --output-file requirements/vllm_cpu.txt

demo: install
	$(BIN)/reflection-v demo

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
