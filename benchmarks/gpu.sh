#!/usr/bin/env bash
# Everything worth knowing of a GPU, in below eight minutes on one card: is it right, how fast is it.
#
#   benchmarks/gpu.sh gpu.json                    # the card
#   benchmarks/gpu.sh dry-run.json --device cpu   # the same path without one, on few clients
#
# PYTHON is the interpreter of an environment with fedadapt's [simulation].
set -euo pipefail
out=$(realpath -m "${1:?file for the results}") && shift
cd "$(dirname "$0")/.."
export PYTHONUNBUFFERED=1 FLWR_TELEMETRY_ENABLED=0 RAY_USAGE_STATS_ENABLED=0
if command -v nvidia-smi > /dev/null; then
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
fi
exec timeout 480 "${PYTHON:-python3}" -m benchmarks.gpu --json "$out" "$@"
