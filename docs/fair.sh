#!/usr/bin/env bash
# Every command of the fair test (docs/comparing.md). Written by `make docs`, from the records of the trainings.
#
#     bash docs/fair.sh    # from the repository's root: about 25 hours on one core of a recent server
#
# What is finished is not trained again, so you can stop it and go on. A try is trained on fold 1 and not evaluated, so
# that only the chosen ones meet the test images. The reports replace the published ones in imgs/, which git keeps.
set -e
python=${PYTHON:-.venv/bin/python}
mkdir -p checkpoints/fair

# --- What the first two blocks come from
make cnn ARCH=fast
make cnn ARCH=fast TASK=turns NAME=turns FOLDS=1
make cnn ARCH=fast TASK=turns REDUCED=none NAME=turns-allimages FOLDS=1
make ae ARCH=fast
make ae ARCH=fast REDUCED=none NAME=allimages
make ae ARCH=fast SEED=1 NAME=seed1
echo '{"noise": 0.2}' > checkpoints/fair/denoising.json
make ae ARCH=fast CONFIG=checkpoints/fair/denoising.json NAME=denoising
echo '{"masked": 0.5}' > checkpoints/fair/masked.json
make ae ARCH=fast CONFIG=checkpoints/fair/masked.json NAME=masked
echo '{"network": {"code_width": 16}}' > checkpoints/fair/narrow.json
make ae ARCH=fast CONFIG=checkpoints/fair/narrow.json NAME=narrow
# --- All labels
make ae_cls ARCH=fast
make ae_cls ARCH=fast ENCODER=tuned
# --- 1,129 labelled images: LABELLED=0.03125
echo '{"validate_every": 17}' > checkpoints/fair/17.json
$python train_cnn.py --fold 1 --arch fast --learning-rate 10 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-r10
make cnn ARCH=fast LR=3 LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-r3
make cnn ARCH=fast LR=3 LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-r3-none REDUCED=none
$python train_cnn.py --fold 1 --arch fast --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-r1
$python train_cnn.py --fold 1 --arch fast --learning-rate 0.3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-r03
$python train_cnn.py --fold 1 --arch fast --learning-rate 0.1 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-r01
$python train_cnn.py --fold 1 --arch fast --learning-rate 0.03 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-r003
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-supervised-r1
echo '{"validate_every": 17, "encoder_rate_factor": 0.3}' > checkpoints/fair/17-0.3.json
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.3.json --name 32nd-supervised-r03
echo '{"validate_every": 17, "encoder_rate_factor": 0.1}' > checkpoints/fair/17-0.1.json
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.1.json --name 32nd-supervised-r01
echo '{"validate_every": 17, "encoder_rate_factor": 0.03}' > checkpoints/fair/17-0.03.json
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.03.json --name 32nd-supervised-r003
echo '{"validate_every": 17, "encoder_rate_factor": 0.01}' > checkpoints/fair/17-0.01.json
make ae_cls ARCH=fast ENCODER=tuned FROM=cnn_fast LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17-0.01.json NAME=32nd-supervised-r001
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast --learning-rate 3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-supervised-lr3-r1
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast --learning-rate 3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.1.json --name 32nd-supervised-lr3-r01
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast --learning-rate 3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.01.json --name 32nd-supervised-lr3-r001
echo '{"validate_every": 17, "frozen_share": 0.3}' > checkpoints/fair/17-0.3-frozen.json
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.3-frozen.json --name 32nd-supervised-fs3-r1
echo '{"validate_every": 17, "encoder_rate_factor": 0.1, "frozen_share": 0.3}' > checkpoints/fair/17-0.1-0.3-frozen.json
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.1-0.3-frozen.json --name 32nd-supervised-fs3-r01
make ae_cls ARCH=fast ENCODER=tuned FROM=autoencoder_fast LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-autoencoder-r1
make ae_cls ARCH=fast ENCODER=tuned FROM=autoencoder_fast LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-autoencoder-r1-none REDUCED=none
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.3.json --name 32nd-autoencoder-r03
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.1.json --name 32nd-autoencoder-r01
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.03.json --name 32nd-autoencoder-r003
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.01.json --name 32nd-autoencoder-r001
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast --learning-rate 3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-autoencoder-lr3-r1
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast --learning-rate 3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.1.json --name 32nd-autoencoder-lr3-r01
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast --learning-rate 3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.01.json --name 32nd-autoencoder-lr3-r001
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.3-frozen.json --name 32nd-autoencoder-fs3-r1
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.1-0.3-frozen.json --name 32nd-autoencoder-fs3-r01
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast_turns_fold1 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-turns-r1
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast_turns_fold1 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.3.json --name 32nd-turns-r03
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast_turns_fold1 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.1.json --name 32nd-turns-r01
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast_turns_fold1 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.03.json --name 32nd-turns-r003
make ae_cls ARCH=fast ENCODER=tuned FROM=cnn_fast_turns_fold1 LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17-0.01.json NAME=32nd-turns-r001
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast_turns_fold1 --learning-rate 3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-turns-lr3-r1
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast_turns_fold1 --learning-rate 3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.1.json --name 32nd-turns-lr3-r01
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast_turns_fold1 --learning-rate 3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.01.json --name 32nd-turns-lr3-r001
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast_turns_fold1 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.3-frozen.json --name 32nd-turns-fs3-r1
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast_turns_fold1 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.1-0.3-frozen.json --name 32nd-turns-fs3-r01
make ae_cls ARCH=fast ENCODER=tuned FROM=autoencoder_fast_denoising LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-denoising-r1 FOLDS='1 2 3'
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast_denoising --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.3.json --name 32nd-denoising-r03
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast_denoising --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.1.json --name 32nd-denoising-r01
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast_denoising --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.03.json --name 32nd-denoising-r003
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast_denoising --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.01.json --name 32nd-denoising-r001
make ae_cls ARCH=fast ENCODER=tuned FROM=autoencoder_fast_masked LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-masked-r1
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast_masked --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.3.json --name 32nd-masked-r03
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast_masked --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.1.json --name 32nd-masked-r01
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast_masked --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.03.json --name 32nd-masked-r003
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast_masked --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.01.json --name 32nd-masked-r001
make ae_cls ARCH=fast ENCODER=tuned FROM=autoencoder_fast_narrow LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-narrow-r1 FOLDS='1 2 3'
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast_narrow --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.3.json --name 32nd-narrow-r03
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast_narrow --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.1.json --name 32nd-narrow-r01
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast_narrow --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.03.json --name 32nd-narrow-r003
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast_narrow --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17-0.01.json --name 32nd-narrow-r001
make ae_cls ARCH=fast FROM=cnn_fast LR=3 LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-supervised-r3
$python train_ae_classifier.py --fold 1 --arch fast --from cnn_fast --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-supervised-r1
$python train_ae_classifier.py --fold 1 --arch fast --from cnn_fast --learning-rate 0.3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-supervised-r03
$python train_ae_classifier.py --fold 1 --arch fast --from cnn_fast --learning-rate 0.1 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-supervised-r01
$python train_ae_classifier.py --fold 1 --arch fast --from cnn_fast --learning-rate 0.03 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-supervised-r003
make ae_cls ARCH=fast FROM=autoencoder_fast LR=3 LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-autoencoder-r3
make ae_cls ARCH=fast FROM=autoencoder_fast LR=3 LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-autoencoder-r3-none REDUCED=none
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-autoencoder-r1
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast --learning-rate 0.3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-autoencoder-r03
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast --learning-rate 0.1 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-autoencoder-r01
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast --learning-rate 0.03 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-autoencoder-r003
$python train_ae_classifier.py --fold 1 --arch fast --from cnn_fast_turns_fold1 --learning-rate 3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-turns-r3
make ae_cls ARCH=fast FROM=cnn_fast_turns_fold1 LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-turns-r1
make ae_cls ARCH=fast FROM=cnn_fast_turns_fold1 LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-turns-r1-none REDUCED=none
$python train_ae_classifier.py --fold 1 --arch fast --from cnn_fast_turns_fold1 --learning-rate 0.3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-turns-r03
$python train_ae_classifier.py --fold 1 --arch fast --from cnn_fast_turns_fold1 --learning-rate 0.1 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-turns-r01
$python train_ae_classifier.py --fold 1 --arch fast --from cnn_fast_turns_fold1 --learning-rate 0.03 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-turns-r003
make ae_cls ARCH=fast FROM=autoencoder_fast_denoising LR=3 LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-denoising-r3
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast_denoising --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-denoising-r1
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast_denoising --learning-rate 0.3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-denoising-r03
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast_denoising --learning-rate 0.1 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-denoising-r01
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast_denoising --learning-rate 0.03 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-denoising-r003
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast_masked --learning-rate 3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-masked-r3
make ae_cls ARCH=fast FROM=autoencoder_fast_masked LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-masked-r1
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast_masked --learning-rate 0.3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-masked-r03
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast_masked --learning-rate 0.1 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-masked-r01
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast_masked --learning-rate 0.03 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-masked-r003
make ae_cls ARCH=fast FROM=autoencoder_fast_allimages LR=3 LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-allimages-r3
make ae_cls ARCH=fast FROM=cnn_fast_turns-allimages_fold1 LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-turns-allimages-r1
make ae_cls ARCH=fast FROM=autoencoder_fast_narrow LR=3 LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-narrow-r3
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast_narrow --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-narrow-r1
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast_narrow --learning-rate 0.3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-narrow-r03
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast_narrow --learning-rate 0.1 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-narrow-r01
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast_narrow --learning-rate 0.03 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-narrow-r003
make ae_cls ARCH=fast FROM=autoencoder_fast_seed1 LR=3 LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-seed1-r3 FOLDS='1 2 3'
make ae_cls ARCH=fast ENCODER=random LR=3 LABELLED=0.03125 BATCH=177 EPOCHS=102 CONFIG=checkpoints/fair/17.json NAME=32nd-random-r3
$python train_ae_classifier.py --fold 1 --arch fast --encoder random --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-random-r1
$python train_ae_classifier.py --fold 1 --arch fast --encoder random --learning-rate 0.3 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-random-r03
$python train_ae_classifier.py --fold 1 --arch fast --encoder random --learning-rate 0.1 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-random-r01
$python train_ae_classifier.py --fold 1 --arch fast --encoder random --learning-rate 0.03 --labelled 0.03125 --batch-size 177 --epochs 102 --config checkpoints/fair/17.json --name 32nd-random-r003
# --- 282 labelled images: LABELLED=0.0078125
echo '{"validate_every": 34}' > checkpoints/fair/34.json
make cnn ARCH=fast LR=3 LABELLED=0.0078125 BATCH=88 EPOCHS=204 CONFIG=checkpoints/fair/34.json NAME=128th-r3
$python train_cnn.py --fold 1 --arch fast --labelled 0.0078125 --batch-size 88 --epochs 204 --config checkpoints/fair/34.json --name 128th-r1
$python train_cnn.py --fold 1 --arch fast --learning-rate 10 --labelled 0.0078125 --batch-size 88 --epochs 204 --config checkpoints/fair/34.json --name 128th-r10
$python train_ae_classifier.py --fold 1 --arch fast --from cnn_fast --learning-rate 3 --labelled 0.0078125 --batch-size 88 --epochs 204 --config checkpoints/fair/34.json --name 128th-supervised-r3
$python train_ae_classifier.py --fold 1 --arch fast --from cnn_fast --labelled 0.0078125 --batch-size 88 --epochs 204 --config checkpoints/fair/34.json --name 128th-supervised-r1
make ae_cls ARCH=fast FROM=cnn_fast LR=10 LABELLED=0.0078125 BATCH=88 EPOCHS=204 CONFIG=checkpoints/fair/34.json NAME=128th-supervised-r10
echo '{"validate_every": 34, "encoder_rate_factor": 0.01}' > checkpoints/fair/34-0.01.json
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast --labelled 0.0078125 --batch-size 88 --epochs 204 --config checkpoints/fair/34-0.01.json --name 128th-supervised-r001
echo '{"validate_every": 34, "encoder_rate_factor": 0.03}' > checkpoints/fair/34-0.03.json
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast --labelled 0.0078125 --batch-size 88 --epochs 204 --config checkpoints/fair/34-0.03.json --name 128th-supervised-r003
echo '{"validate_every": 34, "encoder_rate_factor": 0.003}' > checkpoints/fair/34-0.003.json
make ae_cls ARCH=fast ENCODER=tuned FROM=cnn_fast LABELLED=0.0078125 BATCH=88 EPOCHS=204 CONFIG=checkpoints/fair/34-0.003.json NAME=128th-supervised-r0003
$python train_ae_classifier.py --fold 1 --arch fast --from cnn_fast_turns_fold1 --labelled 0.0078125 --batch-size 88 --epochs 204 --config checkpoints/fair/34.json --name 128th-turns-r1
make ae_cls ARCH=fast FROM=cnn_fast_turns_fold1 LR=3 LABELLED=0.0078125 BATCH=88 EPOCHS=204 CONFIG=checkpoints/fair/34.json NAME=128th-turns-r3
$python train_ae_classifier.py --fold 1 --arch fast --from cnn_fast_turns_fold1 --learning-rate 0.3 --labelled 0.0078125 --batch-size 88 --epochs 204 --config checkpoints/fair/34.json --name 128th-turns-r03
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast_turns_fold1 --labelled 0.0078125 --batch-size 88 --epochs 204 --config checkpoints/fair/34-0.01.json --name 128th-turns-r001
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast_turns_fold1 --labelled 0.0078125 --batch-size 88 --epochs 204 --config checkpoints/fair/34-0.03.json --name 128th-turns-r003
make ae_cls ARCH=fast ENCODER=tuned FROM=cnn_fast_turns_fold1 LABELLED=0.0078125 BATCH=88 EPOCHS=204 CONFIG=checkpoints/fair/34-0.003.json NAME=128th-turns-r0003
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast --learning-rate 3 --labelled 0.0078125 --batch-size 88 --epochs 204 --config checkpoints/fair/34.json --name 128th-autoencoder-r3
make ae_cls ARCH=fast FROM=autoencoder_fast LABELLED=0.0078125 BATCH=88 EPOCHS=204 CONFIG=checkpoints/fair/34.json NAME=128th-autoencoder-r1
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast --learning-rate 10 --labelled 0.0078125 --batch-size 88 --epochs 204 --config checkpoints/fair/34.json --name 128th-autoencoder-r10
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast --labelled 0.0078125 --batch-size 88 --epochs 204 --config checkpoints/fair/34.json --name 128th-autoencoder-r1
echo '{"validate_every": 34, "encoder_rate_factor": 0.3}' > checkpoints/fair/34-0.3.json
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast --labelled 0.0078125 --batch-size 88 --epochs 204 --config checkpoints/fair/34-0.3.json --name 128th-autoencoder-r03
echo '{"validate_every": 34, "encoder_rate_factor": 0.1}' > checkpoints/fair/34-0.1.json
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast --labelled 0.0078125 --batch-size 88 --epochs 204 --config checkpoints/fair/34-0.1.json --name 128th-autoencoder-r01
make ae_cls ARCH=fast ENCODER=tuned FROM=autoencoder_fast LR=3 LABELLED=0.0078125 BATCH=88 EPOCHS=204 CONFIG=checkpoints/fair/34.json NAME=128th-autoencoder-lr3-r1
# --- 4,515 labelled images: LABELLED=0.125
$python train_cnn.py --fold 1 --arch fast --learning-rate 3 --labelled 0.125 --batch-size 354 --epochs 51 --config checkpoints/fair/17.json --name 8th-r3
make cnn ARCH=fast LABELLED=0.125 BATCH=354 EPOCHS=51 CONFIG=checkpoints/fair/17.json NAME=8th-r1
$python train_ae_classifier.py --fold 1 --arch fast --from cnn_fast --learning-rate 3 --labelled 0.125 --batch-size 354 --epochs 51 --config checkpoints/fair/17.json --name 8th-supervised-r3
make ae_cls ARCH=fast FROM=cnn_fast LABELLED=0.125 BATCH=354 EPOCHS=51 CONFIG=checkpoints/fair/17.json NAME=8th-supervised-r1 FOLDS='1 2 3'
make ae_cls ARCH=fast ENCODER=tuned FROM=cnn_fast LABELLED=0.125 BATCH=354 EPOCHS=51 CONFIG=checkpoints/fair/17-0.01.json NAME=8th-supervised-r001 FOLDS='1 2 3'
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast --labelled 0.125 --batch-size 354 --epochs 51 --config checkpoints/fair/17-0.03.json --name 8th-supervised-r003
$python train_ae_classifier.py --fold 1 --arch fast --from cnn_fast_turns_fold1 --labelled 0.125 --batch-size 354 --epochs 51 --config checkpoints/fair/17.json --name 8th-turns-r1
make ae_cls ARCH=fast FROM=cnn_fast_turns_fold1 LR=3 LABELLED=0.125 BATCH=354 EPOCHS=51 CONFIG=checkpoints/fair/17.json NAME=8th-turns-r3 FOLDS='1 2 3'
make ae_cls ARCH=fast ENCODER=tuned FROM=cnn_fast_turns_fold1 LABELLED=0.125 BATCH=354 EPOCHS=51 CONFIG=checkpoints/fair/17-0.01.json NAME=8th-turns-r001 FOLDS='1 2 3'
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast_turns_fold1 --labelled 0.125 --batch-size 354 --epochs 51 --config checkpoints/fair/17-0.03.json --name 8th-turns-r003
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast --learning-rate 3 --labelled 0.125 --batch-size 354 --epochs 51 --config checkpoints/fair/17.json --name 8th-autoencoder-r3
make ae_cls ARCH=fast FROM=autoencoder_fast LABELLED=0.125 BATCH=354 EPOCHS=51 CONFIG=checkpoints/fair/17.json NAME=8th-autoencoder-r1
make ae_cls ARCH=fast ENCODER=tuned FROM=autoencoder_fast LABELLED=0.125 BATCH=354 EPOCHS=51 CONFIG=checkpoints/fair/17.json NAME=8th-autoencoder-r1
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast --labelled 0.125 --batch-size 354 --epochs 51 --config checkpoints/fair/17-0.3.json --name 8th-autoencoder-r03
# --- 36,125 labelled images: LABELLED=1
echo '{"encoder_rate_factor": 0.1}' > checkpoints/fair/0.1.json
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast --config checkpoints/fair/0.1.json --name all-autoencoder-r01
echo '{"encoder_rate_factor": 0.01}' > checkpoints/fair/0.01.json
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from autoencoder_fast --config checkpoints/fair/0.01.json --name all-autoencoder-r001
make ae_cls ARCH=fast ENCODER=tuned FROM=cnn_fast_turns_fold1 NAME=all-turns-r1 FOLDS='1 2 3'
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast_turns_fold1 --config checkpoints/fair/0.1.json --name all-turns-r01
$python train_ae_classifier.py --fold 1 --arch fast --encoder tuned --from cnn_fast_turns_fold1 --config checkpoints/fair/0.01.json --name all-turns-r001
$python train_cnn.py --fold 1 --arch fast --learning-rate 3 --name all-r3
$python train_cnn.py --fold 1 --arch fast --learning-rate 0.3 --name all-r03
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast --learning-rate 3 --name all-autoencoder-r3
$python train_ae_classifier.py --fold 1 --arch fast --from autoencoder_fast --learning-rate 0.3 --name all-autoencoder-r03
$python train_ae_classifier.py --fold 1 --arch fast --from cnn_fast_turns_fold1 --learning-rate 3 --name all-turns-r3
make ae_cls ARCH=fast FROM=cnn_fast_turns_fold1 NAME=all-turns-r1 FOLDS='1 2 3'
# --- Comparison and curve
make compare RUNS='cnn_fast_32nd-r3 autoencoder_cls_fast_random_32nd-random-r3 autoencoder_cls_fast_32nd-supervised-r3 autoencoder_cls_fast_tuned_32nd-supervised-r001 autoencoder_cls_fast_32nd-turns-r1 autoencoder_cls_fast_tuned_32nd-turns-r001 autoencoder_cls_fast_32nd-turns-allimages-r1 autoencoder_cls_fast_32nd-autoencoder-r3 autoencoder_cls_fast_tuned_32nd-autoencoder-r1 autoencoder_cls_fast_32nd-seed1-r3 autoencoder_cls_fast_32nd-allimages-r3 autoencoder_cls_fast_32nd-denoising-r3 autoencoder_cls_fast_tuned_32nd-denoising-r1 autoencoder_cls_fast_32nd-masked-r1 autoencoder_cls_fast_tuned_32nd-masked-r1 autoencoder_cls_fast_32nd-narrow-r3 autoencoder_cls_fast_tuned_32nd-narrow-r1' BASELINE=cnn_fast_32nd-r3 NAME=fair
make curve RUNS='cnn_fast_32nd-r3 cnn_fast_128th-r3 cnn_fast_8th-r1 autoencoder_cls_fast_32nd-supervised-r3 autoencoder_cls_fast_128th-supervised-r10 autoencoder_cls_fast_8th-supervised-r1 autoencoder_cls_fast_tuned_32nd-supervised-r001 autoencoder_cls_fast_tuned_128th-supervised-r0003 autoencoder_cls_fast_tuned_8th-supervised-r001 autoencoder_cls_fast_32nd-turns-r1 autoencoder_cls_fast_128th-turns-r3 autoencoder_cls_fast_8th-turns-r3 autoencoder_cls_fast_tuned_32nd-turns-r001 autoencoder_cls_fast_tuned_128th-turns-r0003 autoencoder_cls_fast_tuned_8th-turns-r001 autoencoder_cls_fast_32nd-autoencoder-r3 autoencoder_cls_fast_128th-autoencoder-r1 autoencoder_cls_fast_8th-autoencoder-r1 autoencoder_cls_fast_tuned_32nd-autoencoder-r1 autoencoder_cls_fast_tuned_128th-autoencoder-lr3-r1 autoencoder_cls_fast_tuned_8th-autoencoder-r1 cnn_fast autoencoder_cls_fast autoencoder_cls_fast_tuned autoencoder_cls_fast_all-turns-r1 autoencoder_cls_fast_tuned_all-turns-r1' NAME=fair
