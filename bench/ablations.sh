#!/usr/bin/env bash
# All ablations on CIFAR-10 for docs/ablations.md, thinned: 15,000 training images, 8 epochs, fewer levels and depths.
# Two lanes at once, one core each; what measures time runs alone at the end. Interrupted, the same command goes on.
#     bench/ablations.sh FOLDER_OF_CIFAR && python bench/ablations.py sqlite:///mlflow.db --data cifar10
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=src
common=("data.path=${1:?the folder that holds cifar-10-batches-py}" data.n_train=15000 training.epochs=8)

ablate() { python -m hpsearch.ablate "ablation=$1" "${common[@]}" "${@:2}"; }

first_lane() {
    ablate initialization
    ablate bias
    ablate self_normalization "ablation.across.values=[5,20]"
    ablate normalization "ablation.across.values=[1e-3,1e-2]"
}

second_lane() {
    ablate activation "ablation.across.values=[2,20]"
    ablate momentum "levels=[sgd_0.9,sgd_0,sgd_0.99,sgd_0.999,sgd_0.99999,nadam_0.9,nadam_0.999,nadam_0.99999]" \
        "ablation.across.values=[1e-3,1e-2]"
    ablate schedule "ablation.across.values=[1e-3,3e-3]"
}

export OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1
python -c "import mlflow; mlflow.MlflowClient('sqlite:///mlflow.db').search_experiments()"  # one process makes the tables
first_lane &
one=$!
second_lane &
two=$!
wait "$one" "$two"
unset OMP_NUM_THREADS TF_NUM_INTRAOP_THREADS TF_NUM_INTEROP_THREADS
ablate dropout_cost
ablate sparsity training.epochs=12
