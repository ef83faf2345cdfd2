# ChefMate. `make sandwich` is the main job; every target prepares the machine first and does nothing twice.
SHELL := /bin/bash
PYTHON ?= python3
RECIPE ?= cheese_sandwich
ENV := source ./env.sh &&

.PHONY: help setup sandwich test lint bench clean

help:
	@echo "make setup     prepare everything (system packages, .venv, ROS 2, build)"
	@echo "make sandwich  the whole graph makes a sandwich on the physics twin; result in out/<time>/"
	@echo "make test      the tests but the slow ones (25 minutes on 2 slow cores)"
	@echo "make lint      ruff and mypy"
	@echo "make bench     every figure that the README states (about 45 minutes on 2 cores)"
	@echo "make clean     remove .venv, build, install, log"

setup:
	@$(PYTHON) bootstrap.py

sandwich: setup
	@$(ENV) chefmate sandwich $(RECIPE) $(if $(SEED),--seed $(SEED))

test: setup
	@$(ENV) python -m pytest $(ARGS)

lint: setup
	@$(ENV) ruff format --check . && ruff check . && mypy

bench: setup
	@$(ENV) chefmate bench all

clean:
	rm -rf .venv build install log
