# Every command of the project; `make` alone lists them. Works with GNU Make 3.81, which macOS ships, and newer.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo cnn ae ae_cls mod_ae_cls pretrained test-eval compare curve report predict export test test-all lint bench \
  clean clean-runs

# --- Knobs, as in `make cnn EPOCHS=5 FOLDS="1 2"` -------------------------------------------------------------------

# Only what is typed after `make` counts: the environment may hold a NAME of its own, as WSL's does.
override TYPED := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
# Values are taken as they stand, $ and all, and travel through the environment, so that none becomes make or shell text:
# a recipe says EPOCHS="$EPOCHS". The script knows what its knobs are and may be; one that it would ignore, it refuses.
$(foreach name,$(TYPED),$(eval override $(name) := $$(value $(name)))$(eval export $(name)))

# The knobs of the scripts are declared in their settings, as knob="NAME"; these are make's own. SHELL, which reads the
# declarations, is none.
override SHELL := /bin/sh
override OWN   := FOLDS LAUNCH PYTHON KERAS_BACKEND GPU
override KNOWN := $(sort $(shell sed -n 's/.*knob="\([A-Z]*\)".*/\1/p' *.py) $(OWN))
$(foreach name,$(filter-out $(KNOWN),$(TYPED)),$(error there is no knob $(name); the knobs are $(KNOWN)))
GIVEN := $(foreach name,$(TYPED),$(if $($(name)),$(name)))
KNOBS := $(foreach name,$(filter-out $(OWN),$(GIVEN)),$(name)="$$$(name)")

GOALS  := $(or $(MAKECMDGOALS),help)
FOLDED := cnn ae_cls mod_ae_cls cnn-fold% ae_cls-fold% mod_ae_cls-fold%
only = $(foreach goal,$(filter-out $2,$(GOALS)),$(foreach knob,$(filter $1,$(GIVEN)),$(error make $(goal) does not take $(knob))))
$(call only,FOLDS,$(FOLDED))
$(call only,LAUNCH GPU,$(FOLDED) ae)
$(if $(filter GPU,$(GIVEN)),$(if $(filter 0 1,$(GPU)),,$(error GPU=$(GPU) is neither 1 nor 0)))
$(call only,$(filter-out $(OWN),$(KNOWN)),$(FOLDED) ae test-eval compare curve predict export)

# Without FOLDS an ARCH, but the study's own, is trained on its own split, which has no number.
OWN_SPLIT := $(if $(filter ARCH,$(GIVEN)),$(filter-out fast,$(ARCH)))
FOLD_LIST := $(if $(filter FOLDS,$(GIVEN)),$(sort $(FOLDS)),$(if $(OWN_SPLIT),1,1 2 3 4 5))
fold       = $(if $(or $(filter FOLDS,$(GIVEN)),$(if $(OWN_SPLIT),,all)),--fold=$1)
$(if $(filter-out $(shell seq 1000),$(FOLD_LIST)),\
  $(error FOLDS=$(strip $(FOLDS)) is not a list of whole numbers from 1 to 1000, such as "1 2 3"))

# --- Environment: .venv, or one of your own with PYTHON=/path/python ------------------------------------------------

ENVIRONMENT :=
ifeq ($(filter PYTHON,$(GIVEN)),)
override PYTHON := .venv/bin/python
ENVIRONMENT := $(if $(and $(filter GPU,$(GIVEN)),$(filter 1,$(GPU))),.venv/gpu,.venv/ready)
test test-all: .venv/ready-to-test
lint: override PYTHON := .venv-lint/bin/python
lint: .venv-lint/ready
endif
export PYTHON

# Made anew whenever its list of packages changes or its Python no longer starts, as after an upgrade of the system's.
# `ready` comes last, so an interrupted installation starts over. Neither packages on PYTHONPATH nor pip's setting `user`
# count, and the environment itself has to have what it should.
started = $(shell $1/bin/python -I -c 'print("yes")' 2>/dev/null)
$(foreach venv,.venv .venv-lint,$(if $(wildcard $(venv)/ready),$(if $(call started,$(venv)),,$(shell rm -f $(venv)/ready))))
PIP = PIP_USER=0 $(@D)/bin/python -I -m pip install -q
.venv/ready: requirements.txt
.venv/ready: GPU_BUILD = $$({ test -n "$(wildcard .venv/gpu)" || nvidia-smi; } >/dev/null 2>&1 && echo $(CUDA))
.venv/ready: NEEDED_MODULES := tensorflow, keras, sklearn, skimage, matplotlib, pydantic, PIL, jinja2, tqdm, filelock
.venv-lint/ready: requirements-dev.txt
.venv-lint/ready: GPU_BUILD =
.venv-lint/ready: NEEDED_MODULES := ruff, pytest
CUDA := 'tensorflow[and-cuda]'
.venv/ready .venv-lint/ready:
	@python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	echo "Python 3.11 to 3.13 is needed, and python3 is $$(python3 -V 2>&1): put one first on PATH," \
	"or use an environment of your own with PYTHON=/path/python" >&2; exit 1; }
	@echo "Installing $< into $(@D): a minute or more where TensorFlow is in it, once"
	@python3 -m venv --clear $(@D)
	@$(PIP) -r $< $(GPU_BUILD)
	@TF_CPP_MIN_LOG_LEVEL=3 $(@D)/bin/python -I -c 'import $(NEEDED_MODULES)' || { \
	echo "$(@D) lacks what was to be installed into it: see above; mend that and repeat" >&2; exit 1; }
	@touch $@
.venv/ready-to-test: requirements-dev.txt .venv/ready
	@$(PIP) -r $<
	@touch $@
# GPU=1: where make sees no driver, as on a cluster's login node.
.venv/gpu: .venv/ready
	@echo "Installing TensorFlow's GPU build into $(@D): several GB, once"
	@$(PIP) -r requirements.txt $(CUDA)
	@touch $@

# --- Trainings and evaluations --------------------------------------------------------------------------------------

# Each fold is a target, hence a process, of its own: `make -j` and LAUNCH="srun --gres=gpu:1" spread them.
# `exec`: no shell in between that would keep a SIGTERM to make from them; `env`: LAUNCH may begin with VARIABLE=value.
LAUNCH  :=
# Where LAUNCH drops the environment, as srun --export=NONE does, PATH too, the backend still arrives.
TRAIN    = exec env $(LAUNCH) $(if $(KERAS_BACKEND),/usr/bin/env KERAS_BACKEND="$$KERAS_BACKEND") "$$PYTHON"
evaluate = exec "$$PYTHON" evaluate.py --model=$1 --shared $(KNOBS)

cnn: $(FOLD_LIST:%=cnn-fold%)  ## Train the CNN on every fold, then evaluate it
	$(call evaluate,cnn)
ae: $(ENVIRONMENT)  ## Train the autoencoder, then evaluate it
	$(TRAIN) train_autoencoder.py $(KNOBS)
	$(call evaluate,autoencoder)
ae_cls: $(FOLD_LIST:%=ae_cls-fold%)  ## The same for the classifier on the autoencoder, which is trained first where missing
	$(call evaluate,autoencoder_cls)
mod_ae_cls: $(FOLD_LIST:%=mod_ae_cls-fold%)  ## The same classifier with the whole encoder frozen
	$(call evaluate,mod_autoencoder_cls)
test-eval: $(ENVIRONMENT)  ## Evaluate only: MODEL=cnn, autoencoder, autoencoder_cls or mod_autoencoder_cls
	exec "$$PYTHON" evaluate.py $(KNOBS)
compare: $(ENVIRONMENT)  ## Compare evaluated classifiers on the same data: differences with their uncertainty
	exec "$$PYTHON" compare.py $(KNOBS)
curve: $(ENVIRONMENT)  ## Learning curves: accuracy against labelled images, of an ARCH with and without an autoencoder
	exec "$$PYTHON" curve.py $(KNOBS)
report: $(ENVIRONMENT)  ## One page of all runs, comparisons and trainings under way: imgs/report.html
	exec "$$PYTHON" report.py
predict: $(ENVIRONMENT)  ## Classes of own pictures (MODEL=autoencoder: reconstructions): IMAGE="cat.jpg photos" MODEL=cnn
	exec "$$PYTHON" predict.py $(KNOBS)
export: $(ENVIRONMENT)  ## Finished models in another format, checked: MODEL=cnn FORMAT=onnx (or tf_saved_model, litert)
	exec "$$PYTHON" export.py $(KNOBS)

# The controls that take no autoencoder train none.
NEEDED := $(if $(or $(filter FROM,$(GIVEN)),$(and $(filter ENCODER,$(GIVEN)),$(filter scratch random,$(ENCODER)))),$(ENVIRONMENT),pretrained)
.PHONY: $(foreach model,cnn ae_cls mod_ae_cls,$(FOLD_LIST:%=$(model)-fold%))
$(FOLD_LIST:%=cnn-fold%): cnn-fold%: $(ENVIRONMENT)
	$(TRAIN) train_cnn.py $(call fold,$*) $(KNOBS)
$(FOLD_LIST:%=ae_cls-fold%): ae_cls-fold%: $(NEEDED)
	$(TRAIN) train_ae_classifier.py $(call fold,$*) $(KNOBS)
$(FOLD_LIST:%=mod_ae_cls-fold%): mod_ae_cls-fold%: $(NEEDED)
	$(TRAIN) train_ae_classifier.py --modified --fold=$* $(KNOBS)

# EPOCHS and the like belong to the classifier: a wrong value is refused now, not after the autoencoder's hours. The
# autoencoder takes what the two share. In `make -j ae ae_cls`, this waits for the autoencoder.
pretrained: $(ENVIRONMENT) $(filter ae,$(GOALS))
	@$(foreach goal,$(filter ae_cls% mod_ae_cls%,$(GOALS)),\
	"$$PYTHON" train_ae_classifier.py $(if $(filter mod%,$(goal)),--modified) --check $(KNOBS) &&) :
	$(TRAIN) train_autoencoder.py --if-missing --shared $(KNOBS)

# Enough epochs of small batches to learn from a thousand pictures, few enough for three minutes of two cores; the two
# folds side by side, since starting up keeps one core busy only.
DEMO := --no-print-directory -j2 DATA=digits NAME=demo BATCH=32 FORCE=1
demo:  ## The chain on scikit-learn's digits: CNN, autoencoder, classifier on it; nothing to download, three minutes
	@exec $(MAKE) $(DEMO) cnn FOLDS="1 2" EPOCHS=14
	@exec $(MAKE) $(DEMO) ae NOAUG=1 EPOCHS=4
	@exec $(MAKE) $(DEMO) ae_cls NOAUG=1 FOLDS="1 2" EPOCHS=4
	@echo "Done: reports and plots are in imgs/digits_*_demo*, models and records in checkpoints/digits_*_demo*"

# --- Development ----------------------------------------------------------------------------------------------------

# Two files at a time: many tests start small processes, which leave much of two cores idle.
test:  ## Run the tests: a quarter of an hour at most
	"$$PYTHON" -m pytest -q -n 2 --dist loadfile
test-all:  ## Run the long ones as well
	"$$PYTHON" -m pytest -q -m ""
lint:  ## Check the code and its format
	"$$PYTHON" -m ruff check .
	"$$PYTHON" -m ruff format --check .
bench: $(ENVIRONMENT)  ## Measure how fast this machine trains and evaluates: seven minutes of two idle cores
	"$$PYTHON" bench.py
clean:  ## Delete caches and the demo's runs
	rm -rf __pycache__ */__pycache__ .pytest_cache .ruff_cache
	rm -rf $(foreach place,checkpoints/ checkpoints/. imgs/ imgs/.,$(place)digits_*_demo_* $(place)digits_*_demo.*)
clean-runs: clean  ## Delete all other runs in checkpoints/ as well
	find checkpoints -mindepth 1 ! -name .gitkeep -delete

help:
	@echo 'Targets:'
	@awk -F ':.*## ' '/^[a-z_-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile
	@echo 'Knobs, as in make ae_cls NOAUG=1 EPOCHS=20 or make -j2 cnn FOLDS="1 2":'
	@python3 util/knobs.py
