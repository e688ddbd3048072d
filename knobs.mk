# Knobs, as in `make cnn EPOCHS=5 FOLDS="1 2"`: which there are, which targets take them, and their way to the scripts.
# Gives the Makefile GIVEN, the names that were typed and hold something; FOLD_LIST; and `options`.

# KNOB:option of the scripts; `python3 options.py` says what each is for. The Makefile itself makes use of the others.
OPTIONS := ARCH:arch DATA:data KEEP:keep REDUCED:reduced VAL:val SEED:seed NOAUG:noaug TARGET:target \
           ENCODER:encoder EPOCHS:epochs BATCH:batch-size LR:learning-rate PATIENCE:patience PRECISION:precision \
           CONFIG:config NAME:name FORCE:force MODEL:model RUNS:runs BASELINE:baseline
FLAGS   := NOAUG FORCE
KNOBS   := $(foreach pair,$(OPTIONS),$(firstword $(subst :, ,$(pair))))
OTHERS  := FOLDS LAUNCH PYTHON KERAS_BACKEND

# Only what is typed after `make` counts: the environment may hold a NAME of its own, as WSL's does.
TYPED   := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
UNKNOWN := $(filter-out $(KNOBS) $(OTHERS),$(TYPED))
$(if $(UNKNOWN),$(error there is no knob $(UNKNOWN); the knobs are $(KNOBS) $(OTHERS)))

# Values are taken as they stand, $ and all, and travel through the environment, so that none becomes make or shell text:
# EPOCHS=5 is --epochs="$EPOCHS" in a recipe. A flag is 1, and 0 is as good as not given.
$(foreach name,$(TYPED),$(eval override $(name) := $$(value $(name)))$(eval export $(name)))
flag     = $(if $(filter-out 0 1,$1)$(word 2,$1),$(error $(name)=$(strip $1) is neither 1 nor 0))$(filter 1,$1)
$(foreach name,$(filter $(FLAGS),$(TYPED)),$(eval override $(name) := $$(call flag,$$($(name)))))
GIVEN   := $(foreach name,$(TYPED),$(if $($(name)),$(name)))
options  = $(foreach knob,$(filter $(GIVEN),$1),$(call option,$(knob)))
option   = $(patsubst $1:%,--%,$(filter $1:%,$(OPTIONS)))$(if $(filter $1,$(FLAGS)),,="$$$1")

# A fold becomes a target's name, so it has to be a number before anything else is made of it.
FOLD_LIST := $(if $(filter FOLDS,$(GIVEN)),$(sort $(FOLDS)),$(if $(filter ARCH,$(GIVEN)),1,1 2 3 4 5))
# Without FOLDS an ARCH is trained on its own split, which has no number.
fold       = $(if $(or $(filter FOLDS,$(GIVEN)),$(if $(filter ARCH,$(GIVEN)),,all)),--fold=$1)
no_digits  = $(subst 0,,$(subst 1,,$(subst 2,,$(subst 3,,$(subst 4,,\
             $(subst 5,,$(subst 6,,$(subst 7,,$(subst 8,,$(subst 9,,$1))))))))))
$(if $(strip $(call no_digits,$(FOLD_LIST)))$(filter 0%,$(FOLD_LIST)),\
  $(error FOLDS=$(strip $(FOLDS)) is not a list of whole numbers from 1, such as "1 2 3"))

# A knob that a target would ignore is refused, before anything is installed or trained.
GOALS    := $(or $(MAKECMDGOALS),help)
FOLDED   := cnn ae_cls mod_ae_cls cnn-fold% ae_cls-fold% mod_ae_cls-fold%
TRAINING := ae $(FOLDED)
only = $(foreach goal,$(filter-out $2,$(GOALS)),$(foreach knob,$(filter $1,$(GIVEN)),$(error make $(goal) does not take $(knob))))
$(call only,KEEP REDUCED VAL SEED EPOCHS LR PATIENCE PRECISION CONFIG FORCE LAUNCH,$(TRAINING))
$(call only,FOLDS,$(FOLDED))
$(call only,DATA BATCH,$(TRAINING) test-eval)
$(call only,NAME,$(TRAINING) test-eval compare)
$(call only,NOAUG TARGET,$(filter-out cnn%,$(TRAINING)) test-eval)
$(call only,ENCODER,$(filter-out cnn% ae,$(TRAINING)) test-eval)
$(call only,ARCH,$(TRAINING) test-eval)
$(call only,MODEL,test-eval)
$(call only,RUNS BASELINE,compare)
$(if $(filter MODEL,$(GIVEN)),,$(if $(filter test-eval,$(GOALS)),$(error make test-eval needs a MODEL, such as MODEL=cnn)))
