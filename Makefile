# Every command of the project; `make` alone lists them. Works with GNU Make 3.81, which macOS ships, and newer.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
TARGETS := help demo cnn ae ae_cls mod_ae_cls pretrained test-eval compare curve report predict export docs \
  test test-system test-all lint bench clean clean-runs
.PHONY: $(TARGETS) remake

$(if $(wildcard train_cnn.py),,$(error this is not the project's folder; `make -C FOLDER` works from elsewhere))

# --- Knobs, as in `make cnn EPOCHS=5 FOLDS="1 2"` -------------------------------------------------------------------

# Each knob of the scripts with its option, and make's own knobs.
OPTIONS := ARCH:arch DATA:data NAME:name NOAUG:noaug TARGET:target ENCODER:encoder MODEL:model CONFIG:config \
  FORCE:force REDUCED:reduced KEEP:keep VAL:val LABELLED:labelled SEED:seed PRECISION:precision LR:learning-rate \
  BATCH:batch-size EPOCHS:epochs PATIENCE:patience RUNS:runs BASELINE:baseline FORMAT:format IMAGE:image OUT:out \
  FROM:from TASK:task VIEWS:views TORCH:torch
OWN     := FOLDS LAUNCH GPU PYTHON KERAS_BACKEND
KNOBS   := $(foreach pair,$(OPTIONS),$(firstword $(subst :, ,$(pair)))) $(OWN)

# What each target takes besides PYTHON and KERAS_BACKEND. An autoencoder that a classifier lacks takes SHARED.
CNN    := ARCH DATA NAME
AE     := $(CNN) NOAUG TARGET
CLS    := $(AE) ENCODER
IMAGES := REDUCED KEEP VAL SEED PRECISION CONFIG
SHARED := $(AE) $(IMAGES)
TRAIN  := $(IMAGES) LR BATCH EPOCHS PATIENCE FORCE LAUNCH GPU
cnn_takes        := $(CNN) $(TRAIN) LABELLED TASK FOLDS VIEWS
ae_takes         := $(AE) $(TRAIN)
ae_cls_takes     := $(CLS) $(TRAIN) LABELLED FROM FOLDS VIEWS
mod_ae_cls_takes := $(ae_cls_takes)
test-eval_takes  := MODEL $(CLS) BATCH VIEWS
predict_takes    := MODEL $(CLS) IMAGE OUT VIEWS
export_takes     := MODEL $(CLS) FORMAT
compare_takes    := DATA NAME RUNS BASELINE
curve_takes      := ARCH NAME RUNS
bench_takes      := TORCH

# A misspelt target or knob is an error before anything is trained, and so is a knob that a target would ignore.
GOALS := $(foreach goal,$(or $(MAKECMDGOALS),help),$(firstword $(subst -fold, ,$(goal))))
TYPED := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
$(foreach goal,$(filter-out $(TARGETS) .venv/%,$(GOALS)),\
  $(error there is no target $(goal); the targets are $(TARGETS)))
$(foreach name,$(filter-out $(KNOBS),$(TYPED)),$(error there is no knob $(name); the knobs are $(KNOBS)))
$(foreach goal,$(GOALS),$(foreach name,$(filter-out $($(goal)_takes) PYTHON KERAS_BACKEND,$(TYPED)),\
  $(error make $(goal) does not take $(name))))

# `EPOCHS=5 make cnn` counts as well, but not names that have other uses: WSL sets NAME, a shell may have DATA or PYTHON.
CLEAR := FOLDS NOAUG REDUCED KEEP LABELLED LR BATCH EPOCHS PATIENCE KERAS_BACKEND
GIVEN := $(foreach name,$(filter $(TYPED) $(CLEAR),$(KNOBS)),$(if $(value $(name)),$(name)))
$(foreach name,$(filter-out $(TYPED) $(CLEAR),$(sort PYTHON $(foreach goal,$(GOALS),$($(goal)_takes)))),\
  $(if $(value $(name)),$(warning $(name) in the environment is ignored; type it after make)))

# No value is read as make's or the shell's own text. `given` is a knob as it was typed, `options` is for the scripts.
unexport $(TYPED)
export KERAS_BACKEND
given   = $(if $(filter $1,$(GIVEN)),$(value $1))
quoted  = '$(subst ','\'',$(value $1))'
option  = $(patsubst $1:%,--%,$(filter $1:%,$(OPTIONS)))
options = $(foreach name,$(filter $(GIVEN),$(filter-out $(OWN),$1)),$(call option,$(name)) $(call quoted,$(name)))

# Without FOLDS, the documents' networks are trained on one split, their own, and all others on the study's folds.
ONE_SPLIT := $(if $(call given,FOLDS),,$(filter elu leaky pool3 wide5 dropout cae,$(call given,ARCH)))
FOLD_LIST := $(if $(ONE_SPLIT),1,$(sort $(or $(call given,FOLDS),1 2 3 4 5)))
$(if $(filter-out $(shell seq 1000),$(FOLD_LIST)),$(error FOLDS takes whole numbers from 1 to 1000, such as "1 2 3"))

# --- Environment: .venv, or one of your own with PYTHON=/path/python ------------------------------------------------

python := $(if $(call given,PYTHON),$(call quoted,PYTHON),.venv/bin/python)
ready  := $(if $(call given,PYTHON),,$(if $(filter 1,$(call given,GPU)),.venv/gpu,.venv/ready))
export PYTHONSAFEPATH :=
export PIP_USER := 0

# Made anew when the list of packages changes, or when the Python that it links to is gone. TensorFlow's GPU build is
# installed where an NVIDIA driver answers, and where GPU=1 asked for it.
CUDA = $(if $(wildcard .venv/gpu)$(shell nvidia-smi > /dev/null 2>&1 && echo yes),'tensorflow[and-cuda]')
.venv/ready: requirements.txt $(if $(realpath .venv/bin/python),,remake)
	@python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "Python 3.11 to 3.13" \
	"is needed, and python3 is $$(python3 -V 2>&1): put one first on PATH, or use PYTHON=/path/python" >&2; exit 1; }
	@echo "Installing requirements.txt into .venv: a minute or more, once"
	python3 -m venv --clear .venv
	.venv/bin/python -m pip install -q -r requirements.txt $(CUDA)
	@touch $@ $(if $(CUDA),.venv/gpu)
.venv/gpu: .venv/ready
	.venv/bin/python -m pip install -q -r requirements.txt 'tensorflow[and-cuda]'
	@touch $@
.venv/ready-to-test: requirements-dev.txt .venv/ready
	.venv/bin/python -m pip install -q -r requirements-dev.txt
	@touch $@

# --- Trainings and evaluations --------------------------------------------------------------------------------------

# Each fold is a target, hence a process, of its own: `make -j` and LAUNCH="srun --gres=gpu:1" spread them. A launcher
# may drop the environment, as srun --export=NONE does; the backend still arrives. `env`: LAUNCH may be VARIABLE=value,
# and make starts the rest itself, without a shell in between that would keep a SIGTERM to make from it.
backend = $(if $(call given,KERAS_BACKEND),/usr/bin/env KERAS_BACKEND=$(call quoted,KERAS_BACKEND) )
train   = $(if $(call given,LAUNCH),env $(value LAUNCH) $(backend))$(python) $1 $(call options,$(filter-out VIEWS,$2))
fold    = $(if $(ONE_SPLIT),,--fold $*)

cnn: $(FOLD_LIST:%=cnn-fold%)  ## Train the CNN on every fold, then evaluate it
	$(python) evaluate.py --model cnn $(call options,$(CNN) VIEWS)
ae: $(ready)  ## Train the autoencoder, then evaluate it
	$(call train,train_autoencoder.py,$(ae_takes))
	$(python) evaluate.py --model autoencoder $(call options,$(AE))
ae_cls: $(FOLD_LIST:%=ae_cls-fold%)  ## The same for the classifier on the autoencoder, which is trained first where missing
	$(python) evaluate.py --model autoencoder_cls $(call options,$(CLS) VIEWS)
mod_ae_cls: $(FOLD_LIST:%=mod_ae_cls-fold%)  ## The same classifier with the whole encoder frozen
	$(python) evaluate.py --model mod_autoencoder_cls $(call options,$(CLS) VIEWS)
test-eval: $(ready)  ## Evaluate only: MODEL=cnn, autoencoder, autoencoder_cls or mod_autoencoder_cls
compare: $(ready)  ## Compare evaluated classifiers on the same data: differences with their uncertainty
curve: $(ready)  ## Learning curves: accuracy against labelled images, of an ARCH with and without an autoencoder
report: $(ready)  ## One page of all runs, comparisons and trainings under way: imgs/report.html
predict: $(ready)  ## Classes of own pictures (MODEL=autoencoder: reconstructions): IMAGE="cat.jpg photos" MODEL=cnn
export: $(ready)  ## Finished models in another format, checked: MODEL=cnn FORMAT=onnx (or tf_saved_model, litert)
bench: $(ready)  ## Measure how fast this machine trains and predicts: six minutes of two idle cores
test-eval compare curve report predict export bench:
	$(python) $(subst test-eval,evaluate,$@).py $(call options,$($@_takes))

# An autoencoder is trained where one is needed and missing; the classifier's options are checked before its hours.
needed := $(if $(call given,FROM)$(filter scratch random,$(call given,ENCODER)),$(ready),pretrained)
cnn-fold%: $(ready)
	$(call train,train_cnn.py $(fold),$(cnn_takes))
ae_cls-fold%: $(needed)
	$(call train,train_ae_classifier.py $(fold),$(ae_cls_takes))
mod_ae_cls-fold%: $(needed)
	$(call train,train_ae_classifier.py --modified $(fold),$(mod_ae_cls_takes))
check = $(python) train_ae_classifier.py --check $1$(call options,$(filter-out VIEWS,$(ae_cls_takes)))
pretrained: $(ready) $(filter ae,$(GOALS))
	$(if $(filter ae_cls,$(GOALS)),$(call check))
	$(if $(filter mod_ae_cls,$(GOALS)),$(call check,--modified ))
	$(call train,train_autoencoder.py --if-missing,$(SHARED))

# Enough epochs of small batches to learn from a thousand pictures, few enough for four minutes of two cores.
DEMO := --no-print-directory -j2 DATA=digits NAME=demo BATCH=32 FORCE=1
demo:  ## The chain on scikit-learn's digits: CNN, autoencoder, classifier on it; nothing to download, four minutes
	@$(MAKE) $(DEMO) cnn FOLDS='1 2' EPOCHS=14
	@$(MAKE) $(DEMO) ae NOAUG=1 EPOCHS=4
	@$(MAKE) $(DEMO) ae_cls NOAUG=1 FOLDS='1 2' EPOCHS=4
	@echo "Done: reports and plots are in imgs/digits_*_demo*, models and records in checkpoints/digits_*_demo*"

# --- Development ----------------------------------------------------------------------------------------------------

test test-system test-all lint: $(if $(ready),.venv/ready-to-test)
test:  ## Run the tests
	$(python) -m pytest -q -n 2 --dist worksteal -m "not long and not system"
test-system:  ## Run those that take root, a browser, a scheduler or a second process
	$(python) -m pytest -q -m "system and not long"
test-all:  ## Run all of them, the long ones as well
	$(python) -m pytest -q -m ""
lint:  ## Check the code and its format
	$(python) -m ruff check .
	$(python) -m ruff format --check .
docs: $(ready)  ## Write the generated tables of README.md and docs/ anew
	$(python) -m docs.tables
clean:  ## Delete caches and the demo's runs
	rm -rf __pycache__ */__pycache__ .pytest_cache .ruff_cache
	rm -rf $(foreach place,checkpoints/ checkpoints/. imgs/ imgs/.,$(place)digits_*_demo_* $(place)digits_*_demo.*)
clean-runs: clean  ## Delete all trained networks in checkpoints/ as well, without asking
	find checkpoints/ -mindepth 1 ! -name .gitkeep -delete

help:
	@echo 'Targets:'
	@awk -F ':.*## ' '/^[a-z_-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' Makefile
	@echo 'Knobs, as in make ae_cls NOAUG=1 EPOCHS=20 or make -j2 cnn FOLDS="1 2"; the defaults are those of make cnn:'
	@awk -F ' *[|] *' '/<!-- knobs -->/, /<!-- .knobs -->/ { gsub("`", ""); if ($$2 ~ /^[A-Z_]+$$/) \
	printf "  %-13s %s\n", $$2, $$4 ($$3 == "" ? "" : " (default: " $$3 ")") }' README.md docs/*.md
