#!/usr/bin/env bash
# All ablations on CIFAR-10 for docs/ablations.md, thinned: 15,000 training images, batches of 128, 8 epochs, fewer levels
# and depths. One after the other, since most measure time. Interrupted, the same command goes on.
#     bench/ablations.sh FOLDER_OF_CIFAR && python bench/ablations.py sqlite:///mlflow.db --data cifar10
set -euo pipefail
cd "$(dirname "$0")/.."
common=("data.path=${1:?the folder that holds cifar-10-batches-py}" data.n_train=15000 training.batch_size=128 training.epochs=8)

ablate() { hpsearch ablate "ablation=$1" "${common[@]}" "${@:2}"; }

ablate initialization
ablate bias
ablate self_normalization "ablation.across.values=[5,20]"
ablate activation "ablation.across.values=[2,20]"
ablate momentum "levels=[sgd_0.9,sgd_0,sgd_0.99,sgd_0.999,sgd_0.99999,nadam_0.9,nadam_0.999]" \
    "ablation.across.values=[1e-3,1e-2,1e-1]"
ablate normalization "ablation.across.values=[1e-3,1e-2]"
ablate schedule "ablation.across.values=[1e-3,3e-3]"
ablate dropout_cost
ablate sparsity training.epochs=12
