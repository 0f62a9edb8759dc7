# Every target first creates .venv with its requirements. PYTHON=python3.12 make ... uses another interpreter.

PYTHON ?= python3
RUN := .venv/bin/python
ARGS ?=
NAME =  # not ?=, because WSL has an environment variable NAME

define HELP
make train     train on CIFAR-10 with the guide's settings; ARGS="--epochs 5" passes flags
make demo      train on synthetic data without a download; the average wins
make test      run the tests; make test-slow: the tests that take minutes
make bench     compare the training speed with other implementations
make results   train the runs behind the README's numbers; NAME=gain: this experiment
make check     check that tables and reports match the logs in results/
make lint      check the style
make clean     delete .venv and caches
endef

help:
	@$(info $(HELP)):

.PHONY: help train demo test test-slow lint check bench results clean

train: .venv/runtime
	$(RUN) train.py $(ARGS)

# Synthetic data with the recommended flags.
demo: .venv/runtime
	$(RUN) train.py --dataset synthetic --width 0.25 --epochs 4 --learning_rate 0.003 --ema_decay 0.9 \
		--ema_start warmup --ema_batch_stats recomputed $(ARGS)

test: .venv/development
	$(RUN) -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

test-slow: .venv/development
	$(RUN) -m pytest -n 2 --dist loadfile -m slow $(ARGS)

lint: .venv/development
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

check: .venv/runtime
	$(RUN) results/readme_tables.py --check
	$(RUN) results/experiments.py --check
	$(RUN) benchmarks/summarize.py --check
	@echo "all tables and reports match the logs"

# Trains the missing runs of the experiment NAME, which takes hours to days on a small machine.
results: .venv/runtime
	commands=$$($(RUN) results/experiments.py $(NAME)) && PATH="$(CURDIR)/.venv/bin:$$PATH" sh -exc "$$commands"
	$(RUN) results/experiments.py --collect $(NAME)
	$(RUN) results/readme_tables.py --write

# Half an hour with nothing else running. Only a complete run with the default settings changes results/bench.
bench: .venv/benchmark
	$(RUN) benchmarks/bench.py $(ARGS)
	$(RUN) benchmarks/summarize.py --write

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis

# One stamp file per requirements file: pip runs again only if the file has changed.
.venv/runtime: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14) and "Python 3.10 to 3.13 is needed: PYTHON=python3.12 make ...")'
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/development: requirements/dev.txt .venv/runtime
	$(RUN) -m pip install --quiet --requirement requirements/dev.txt
	touch $@

.venv/benchmark: requirements/bench.txt .venv/runtime
	$(RUN) -m pip install --quiet --requirement requirements/bench.txt
	touch $@
