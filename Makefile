# SPDX-License-Identifier: GPL-3.0-or-later
# make demo   set up, simulate particles, run the protocol in a Scipion project, show what came out
# make window   opens the project of the demo in Scipion
# make test   set up, then lint, types and all tests, on all cores
# make quick   the tests that need no Scipion, in some seconds
# make coverage   all tests, and what of the code they reach
# make breaks   breaks the code on purpose in many places, one at a time, and tells which breaks no test sees
# make screenshots   the pictures of the README, from real windows
# make fuzz   random input of every sort, a hundred times as much as the tests try

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin
export PARTICLES APIX

# What the README and docs show, of all pictures that screenshots.py takes
PICTURES := result form_and_wizard wizard_xCenter wizard_lowpassResolution viewer_browsePairs \
  viewer_center_showPlaces viewer_center_browsePlaces failed

# Many tests wait for other processes: twice as many workers as cores
PYTEST := $(BIN)/python -m pytest --numprocesses $$((2 * $$(nproc))) --dist loadgroup --no-loadscope-reorder

.PHONY: demo window test quick coverage breaks fuzz screenshots lint format clean

demo: $(READY)
	@echo "Running the demo: a few seconds"
	@$(BIN)/python -m downsample_plugin.demo "$$PARTICLES" "$$APIX"

window: $(READY)
	@test -d demo_project/projects || { echo "There is no project yet: run make demo first" >&2; exit 1; }
	@$(BIN)/python -O -c "from downsample_plugin import headless; headless.prepare('demo_project'); \
	  from pyworkflow.apps.pw_project import openProject; openProject('downsample_demo')"

test: $(READY) lint
	@tests/install_tools.sh
	PATH="$$PATH:/usr/sbin" $(PYTEST)

quick: $(READY)
	$(PYTEST) --numprocesses auto -m "not scipion and not cluster and not slow"

coverage: $(READY)
	@tests/install_tools.sh
	PATH="$$PATH:/usr/sbin" $(PYTEST) --cov --cov-report=term-missing:skip-covered

breaks: $(READY)
	$(BIN)/python tests/breaks.py

fuzz: $(READY)
	FUZZ_EXAMPLES=15000 $(BIN)/python -m pytest tests/test_fuzz.py

screenshots: $(READY)
	xvfb-run -a -s "-screen 0 1500x1000x24" $(BIN)/python docs/screenshots.py screenshots
	cd screenshots && cp $(addsuffix .png,$(PICTURES)) ../docs/images

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) screenshots build dist demo_project *.egg-info

$(READY): setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "Python 3.9 to 3.12 is needed, '$(PYTHON)' is not: install one and run make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import tkinter' 2>/dev/null \
	  || { echo "tkinter is missing, which Scipion needs: install the Debian package python3-tk, then run make again" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "venv is missing: install the Debian package python3-venv, then run make again" >&2; exit 1; }
	@echo "Setting up Scipion and the plugin in $(VENV): 40 s to 2 minutes, once; pip prints nothing during this time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@$(BIN)/python -m compileall -q downsample_plugin
	@echo "Set up."
	@touch $@
