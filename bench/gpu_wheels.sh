#!/usr/bin/env bash
# Fill .gpu-wheels/ with what a bare GPU machine lacks for a search on JAX, so that bench/gpu.py runs there offline.
#
#     bash bench/gpu_wheels.sh
#
# The machine needs Linux on x86-64, Python 3.12, pip, JAX with CUDA, and the packages in PRESENT. Versions are those
# of requirements.txt. The script ends with an error if wheels and tracked files together are over 64 MiB.
set -euo pipefail
cd "$(dirname "$0")/.."

FOLDER=.gpu-wheels
LIMIT_MIB=64
# What the machine has already: JAX with CUDA, and the packages that come with it there.
PRESENT="numpy scipy pandas pyarrow scikit-learn matplotlib pillow h5py grpcio protobuf rich requests psutil six
    certifi charset-normalizer idna urllib3 contourpy cycler fonttools kiwisolver pyparsing python-dateutil tzdata
    joblib threadpoolctl narwhals markdown-it-py mdurl pygments ml-dtypes opt-einsum pyyaml setuptools wheel"
# What only TensorFlow, PostgreSQL, SLURM, joblib sweeps or `mlflow run` need.
UNUSED="tensorflow astunparse flatbuffers gast google-pasta libclang termcolor wrapt psycopg psycopg-binary submitit
    hydra-submitit-launcher hydra-joblib-launcher uv virtualenv distlib platformdirs python-discovery"
# The one package of requirements.txt that is published without a wheel.
SOURCE_ONLY=antlr4-python3-runtime

python=$(command -v python3)
wanted=$(mktemp)
trap 'rm -f "$wanted"' EXIT
skipped=" $(echo $PRESENT $UNUSED $SOURCE_ONLY) "
grep -E '^[A-Za-z0-9]' requirements.txt | while read -r line; do
    name=${line%%==*}
    [[ $skipped == *" $name "* ]] || echo "$line"
done >"$wanted"

platforms=()
for glibc in 17 24 27 28 31 34 35 39; do
    platforms+=(--platform "manylinux_2_${glibc}_x86_64")
done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64)

rm -rf "$FOLDER"
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" -d "$FOLDER" -r "$wanted"
"$python" -m pip wheel -q --no-deps -w "$FOLDER" "$(grep -E "^$SOURCE_ONLY==" requirements.txt)"

(cd "$FOLDER" && ls -lS | awk 'NR > 1 {printf "%8.1f KiB  %s\n", $5 / 1024, $9}')
wheels=$(cat "$FOLDER"/*.whl | wc -c)
tracked=$(git ls-files -z | xargs -0 cat | wc -c)
total_mib=$(((wheels + tracked + 1048575) / 1048576))
echo "$(ls "$FOLDER" | wc -l) wheels, $((wheels / 1048576)) MiB; with the tracked files $total_mib MiB of $LIMIT_MIB"
[ "$total_mib" -le "$LIMIT_MIB" ]
