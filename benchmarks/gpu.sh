#!/bin/sh
# All that only a GPU can show, within ten minutes, with what is installed: the tests that need one, then the figures.
# usage: benchmarks/gpu.sh [--smoke] [--precision NAME] [--minutes N] [--out FOLDER], paths as seen from the repository
# Writes gpu-NAME.json and gpu-tests.txt into FOLDER, benchmarks/results by default. --smoke tries every part of it at
# tiny sizes on the CPU. Ends with the exit code of the tests: the figures are worth having though one fails.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
results=benchmarks/results
device=cuda
previous=
for word in "$@"; do
    [ "$previous" != --out ] || results=$word
    case $word in
        --smoke) device=cpu ;;
        --out=*) results=${word#--out=} ;;
    esac
    previous=$word
done
mkdir -p "$results"

if [ "$device" = cuda ]; then
    nvidia-smi --query-gpu=name,memory.total,clocks.max.sm,power.limit --format=csv || true
fi
failed=0
LDM_TEST_DEVICE=$device CUBLAS_WORKSPACE_CONFIG=:4096:8 timeout 170 "$python" -m pytest -n0 tests/gpu \
    -q -rs -p no:cacheprovider --durations=5 -m "not slow" > "$results/gpu-tests.txt" 2>&1 || failed=$?
timeout 420 "$python" -m benchmarks.gpu "$@" || failed=$?
tail -n 20 "$results/gpu-tests.txt"
exit "$failed"
