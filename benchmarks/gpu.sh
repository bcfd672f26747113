#!/bin/sh
# All that only a GPU can show, within ten minutes, with what is installed: the tests that need one, then the figures.
# Results: benchmarks/results/gpu-NAME.json and gpu-tests.txt. `--device cpu --smoke` tries the script where there is none.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
results=benchmarks/results
mkdir -p "$results"

"$python" -c 'import sys, torch; print("torch", torch.__version__, "CUDA", torch.version.cuda, "GPUs", torch.cuda.device_count())'
case " $* " in
*" --device cpu "*) ;;
*)
    nvidia-smi --query-gpu=name,memory.total,clocks.max.sm,power.limit --format=csv || true
    # The figures are worth having though a test fails; what failed is told at the end.
    CUBLAS_WORKSPACE_CONFIG=:4096:8 timeout 240 "$python" -m pytest -n0 tests/gpu -q -rs --durations=5 \
        > "$results/gpu-tests.txt" 2>&1 || true
    tail -n 15 "$results/gpu-tests.txt"
    ;;
esac
timeout 420 "$python" -m benchmarks.gpu "$@"
[ ! -f "$results/gpu-tests.txt" ] || tail -n 1 "$results/gpu-tests.txt"
