# Every command of the project; `make` alone lists them. Works with GNU Make 3.81, which macOS ships, and newer.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo cnn ae ae_cls mod_ae_cls pretrained test-eval compare test test-all lint bench clean clean-runs
include knobs.mk

# --- Environment: .venv, or one of your own with PYTHON=/path/python ------------------------------------------------

ENVIRONMENT :=
ifeq ($(filter PYTHON,$(GIVEN)),)
override PYTHON := .venv/bin/python
ENVIRONMENT := .venv/ready
test test-all: .venv/ready-to-test
lint: override PYTHON := .venv-lint/bin/python
lint: .venv-lint/ready
endif
export PYTHON

# Made anew whenever its list of packages changes. `ready` comes last, so an interrupted installation starts over.
.venv/ready: requirements.txt
.venv/ready: GPU_BUILD = $$(nvidia-smi >/dev/null 2>&1 && echo 'tensorflow[and-cuda]')
.venv-lint/ready: requirements-dev.txt
.venv-lint/ready: GPU_BUILD =
.venv/ready .venv-lint/ready:
	@python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	echo "Python 3.11 to 3.13 is needed, and python3 is $$(python3 -V 2>&1): put one first on PATH," \
	"or use an environment of your own with PYTHON=/path/python" >&2; exit 1; }
	@echo "Installing $< into $(@D): some minutes where TensorFlow is in it, once"
	@python3 -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install -q -r $< $(GPU_BUILD)
	@touch $@
.venv/ready-to-test: requirements-dev.txt .venv/ready
	@.venv/bin/python -m pip install -q -r $<
	@touch $@

# --- Trainings and evaluations --------------------------------------------------------------------------------------

# Each fold is a target, hence a process, of its own: `make -j` and LAUNCH="srun --gres=gpu:1" spread them.
# `exec`: no shell in between that would keep a SIGTERM to make from them; `env`: LAUNCH may begin with VARIABLE=value.
LAUNCH  :=
TRAIN    = exec env $(LAUNCH) "$$PYTHON"
evaluate = exec "$$PYTHON" evaluate.py --model=$1 $(call options,ARCH DATA NOAUG TARGET ENCODER NAME)

cnn: $(FOLD_LIST:%=cnn-fold%)  ## Train the CNN on every fold, then evaluate it
	$(call evaluate,cnn)
ae: $(ENVIRONMENT)  ## Train the autoencoder, then evaluate it
	$(TRAIN) train_autoencoder.py $(call options,$(KNOBS))
	$(call evaluate,autoencoder)
ae_cls: $(FOLD_LIST:%=ae_cls-fold%)  ## The same for the classifier on the autoencoder, which is trained first where missing
	$(call evaluate,autoencoder_cls)
mod_ae_cls: $(FOLD_LIST:%=mod_ae_cls-fold%)  ## The same classifier with the whole encoder frozen
	$(call evaluate,mod_autoencoder_cls)
test-eval: $(ENVIRONMENT)  ## Evaluate only: MODEL=cnn, autoencoder, autoencoder_cls or mod_autoencoder_cls
	exec "$$PYTHON" evaluate.py $(call options,$(KNOBS))
compare: $(ENVIRONMENT)  ## Compare evaluated classifiers on the same data: differences with their uncertainty
	exec "$$PYTHON" compare.py $(call options,$(KNOBS))

# The controls that take no autoencoder train none.
NEEDED := $(if $(filter ENCODER,$(GIVEN)),$(if $(filter scratch random,$(ENCODER)),$(ENVIRONMENT),pretrained),pretrained)
.PHONY: $(foreach model,cnn ae_cls mod_ae_cls,$(FOLD_LIST:%=$(model)-fold%))
$(FOLD_LIST:%=cnn-fold%): cnn-fold%: $(ENVIRONMENT)
	$(TRAIN) train_cnn.py $(call fold,$*) $(call options,$(KNOBS))
$(FOLD_LIST:%=ae_cls-fold%): ae_cls-fold%: $(NEEDED)
	$(TRAIN) train_ae_classifier.py $(call fold,$*) $(call options,$(KNOBS))
$(FOLD_LIST:%=mod_ae_cls-fold%): mod_ae_cls-fold%: $(NEEDED)
	$(TRAIN) train_ae_classifier.py --modified --fold=$* $(call options,$(KNOBS))

# EPOCHS and the like belong to the classifier: a wrong value is refused now, not after the autoencoder's hours; CONFIG
# too, from which the autoencoder takes what the two share. In `make -j ae ae_cls`, this waits for the autoencoder.
SHARED := ARCH DATA KEEP REDUCED VAL SEED NOAUG TARGET PRECISION CONFIG NAME
pretrained: $(ENVIRONMENT) $(filter ae,$(GOALS))
	@$(foreach goal,$(filter ae_cls% mod_ae_cls%,$(GOALS)),\
	"$$PYTHON" train_ae_classifier.py $(if $(filter mod%,$(goal)),--modified) $(call options,$(KNOBS)) --check &&) :
	$(TRAIN) train_autoencoder.py --if-missing $(call options,$(SHARED))

# Enough epochs of small batches for batch-norm statistics to settle, few enough for three minutes of two cores; the two
# folds side by side, since starting up keeps one core busy only.
DEMO := --no-print-directory -j2 DATA=digits NAME=demo BATCH=32 FORCE=1
demo:  ## The chain on scikit-learn's digits: CNN, autoencoder, classifier on it; nothing to download, three minutes
	@exec $(MAKE) $(DEMO) cnn FOLDS="1 2" EPOCHS=14
	@exec $(MAKE) $(DEMO) ae NOAUG=1 EPOCHS=4
	@exec $(MAKE) $(DEMO) ae_cls NOAUG=1 FOLDS="1 2" EPOCHS=4
	@echo "Done: reports and plots are in imgs/digits_*_demo*, models and records in checkpoints/digits_*_demo*"

# --- Development ----------------------------------------------------------------------------------------------------

# Two files at a time: many tests start small processes, which leave much of two cores idle.
test:  ## Run the tests: no network, five minutes of two cores
	"$$PYTHON" -m pytest -q -n 2 --dist loadfile
test-all:  ## Run the long ones as well
	"$$PYTHON" -m pytest -q -m ""
lint:  ## Check the code and its format
	"$$PYTHON" -m ruff check .
	"$$PYTHON" -m ruff format --check .
bench: $(ENVIRONMENT)  ## Measure how fast this machine trains and evaluates: five minutes of two idle cores
	"$$PYTHON" bench.py
clean:  ## Delete caches and the demo's runs
	rm -rf __pycache__ tests/__pycache__ .pytest_cache .ruff_cache
	rm -f checkpoints/digits_*_demo* checkpoints/.digits_*_demo* imgs/digits_*_demo* imgs/.digits_*_demo*
clean-runs: clean  ## Delete all other runs in checkpoints/ as well
	find checkpoints -type f ! -name .gitkeep -delete

help:
	@echo 'Targets:'
	@awk -F ':.*## ' '/^[a-z_-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile
	@echo 'Knobs, as in make ae_cls NOAUG=1 EPOCHS=20 or make -j2 cnn FOLDS="1 2":'
	@python3 options.py
	@echo '  LAUNCH     a prefix of every training command, such as "srun --gres=gpu:1"'
	@echo '  PYTHON     the python of an environment of your own, instead of .venv'
	@echo '  KERAS_BACKEND  jax, with a PYTHON that has it (default: tensorflow)'
