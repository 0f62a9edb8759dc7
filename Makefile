# Each target makes .venv with what it needs first. PYTHON=python3.12 make ... chooses another interpreter.

PYTHON ?= python3
RUN := .venv/bin/python
ARGS ?=
NAME =  # of an experiment; WSL has a variable of that name in the environment

define HELP
make train     train on CIFAR-10 with the guide's settings; ARGS="--epochs 5" passes flags on
make demo      the average ahead on synthetic data, without network or download
make test      the tests; make test-slow: those that take minutes
make bench     speed beside peers on this machine
make results   the runs behind the README's numbers; NAME=gain: one experiment
make check     whether the numbers in the READMEs are what the logs say
make lint      style
make clean     without .venv again
endef

help:
	@$(info $(HELP)):

.PHONY: help train demo test test-slow lint check bench results clean

# CIFAR-10 with the guide's settings. ARGS="--epochs 5" and the like are passed on.
train: .venv/runtime
	$(RUN) train.py $(ARGS)

# Synthetic data, no network, and what is recommended.
demo: .venv/runtime
	$(RUN) train.py --dataset synthetic --width 0.25 --epochs 4 --learning_rate 0.003 --ema_decay 0.9 \
		--ema_start warmup --ema_batch_stats recomputed $(ARGS)

test: .venv/development
	$(RUN) -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

# What takes minutes: thirty kills, killed workers, memory over thousands of steps, the benchmark's driver.
test-slow: .venv/development
	$(RUN) -m pytest -n 2 --dist loadfile -m slow $(ARGS)

lint: .venv/development
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

# That tables, numbers in the text and reports are what the logs in results/ say.
check: .venv/runtime
	$(RUN) results/readme_tables.py --check
	$(RUN) results/experiments.py --check
	$(RUN) benchmarks/summarize.py --check

# One experiment behind the README's numbers, as in `make results NAME=gain`; all of them without a name. Trains what is
# missing, which takes hours to days on a small machine.
results: .venv/runtime
	commands=$$($(RUN) results/experiments.py $(NAME)) && PATH="$(CURDIR)/.venv/bin:$$PATH" sh -exc "$$commands"
	$(RUN) results/experiments.py --collect $(NAME)
	$(RUN) results/readme_tables.py --write

# Speed beside peers, about half an hour with nothing else running; then the tables of results/bench in the READMEs,
# which only a whole run with the default settings changes.
bench: .venv/benchmark
	$(RUN) benchmarks/bench.py $(ARGS)
	$(RUN) benchmarks/summarize.py --write

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis

# A stamp a requirements file: pip runs again only when one has changed.
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
