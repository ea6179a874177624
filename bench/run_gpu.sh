#!/usr/bin/env bash
# Times the projection and eigenproblems on a GPU and prints two tables. Needs g++, CMake, ninja, Eigen, and CUDA 12 or
# 13 (the toolkit, or the parts that come with an installed PyTorch wheel: give their folder as CUDAToolkit_ROOT).
#
#   bench/run_gpu.sh [CMAKE-OPTION...]
set -euo pipefail
cd "$(dirname "$0")/.."
cmake -S bench/gpu -B build/bench-gpu -G Ninja -DCMAKE_BUILD_TYPE=Release "$@" >/dev/null
cmake --build build/bench-gpu >/dev/null
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,clocks.max.memory --format=csv,noheader
build/bench-gpu/ogpsa_bench_gpu
