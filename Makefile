# ChefMate. `make sandwich` is the main job; every target prepares the machine first and does nothing twice.
SHELL := /bin/bash
PYTHON ?= python3
RECIPE ?= cheese_sandwich
ENV := source ./env.sh &&
ALL_CORES := -n logical --maxprocesses 4 --dist loadfile

.PHONY: help setup sandwich test lint bench clean

help:
	@echo "make setup     prepare everything (system packages, .venv, ROS 2, build)"
	@echo "make sandwich  the whole graph makes a sandwich on the physics twin; result in out/<time>/"
	@echo "make test      the tests but the slow ones (about 20 minutes on 2 slow cores)"
	@echo "make lint      ruff and mypy"
	@echo "make bench     every figure that the README states (about 45 minutes on 2 cores)"
	@echo "make clean     remove .venv, build, install, log"

setup:
	@$(PYTHON) bootstrap.py

sandwich: setup
	@$(ENV) chefmate sandwich $(RECIPE) $(if $(SEED),--seed $(SEED)) $(if $(POLICY),--policy $(POLICY))

# Without arguments: first the tests that no clock decides, beside each other on all cores; then the real-time ones,
# one after the other. They start nodes by the hundred, so modules are compiled once, also where the shell says
# otherwise.
test: export PYTHONDONTWRITEBYTECODE =
test: setup
ifneq ($(ARGS),)
	@$(ENV) python -m pytest $(ARGS)
else
	@$(ENV) { OMP_NUM_THREADS=1 python -m pytest -m 'not slow and not real_time' $(ALL_CORES); beside=$$?; \
		python -m pytest -m 'not slow and real_time' && exit $$beside; }
endif

lint: setup
	@$(ENV) ruff format --check . && ruff check . && mypy

bench: setup
	@$(ENV) chefmate bench all

clean:
	rm -rf .venv build install log
