#!/usr/bin/env bash
# Tests the CUDA backend on the GPU of this machine, and prints one table. Needs CUDA 12 or 13 (the toolkit, or a folder
# with its parts, as CUDAToolkit_ROOT); installs what else is missing (Debian or Ubuntu, as root or with sudo). Where
# python3 has a PyTorch for CUDA, LibTorch's CUDA tensors are tested too.
#
#   tests/run_gpu.sh [CMAKE-OPTION...]
#
# The program is the one that the stand-in is linked to elsewhere (tests/cuda), with the real libraries.
set -euo pipefail
cd "$(dirname "$0")/.."
. cmake/setup.sh
install_for_gpu
torch=$(python_torch_cuda)
options=(-DOGPSA_CUDA_DEVICE_TESTS=ON)
targets=(ogpsa_cuda_device_tests ogpsa_cuda_real)
if [ -n "$torch" ]; then
  options+=(-DOGPSA_TORCH=ON -DOGPSA_TORCH_DIR="$torch")
  targets+=(ogpsa_torch_cuda_tests)
fi
cmake --preset cuda -B build/gpu "${cmake_options[@]}" "${options[@]}" "$@" >/dev/null
cmake --build build/gpu --target "${targets[@]}"
build/gpu/tests/cuda/ogpsa_cuda_real
printf '%-28s %s\n' tests result
status=0
for file in tests/test_*.cpp tests/cuda/test_{primitives,eigenproblems,linear,page_locked,capture}.cpp; do
  name=$(basename "$file" .cpp)
  case $name in
  test_fast_math | test_kernels | test_nonnegative_least_squares | test_rank | test_report | test_safetensors | test_small_dense | \
    test_stored_subspace | test_symmetric_eigen) continue ;;
  esac
  log=build/gpu/$name.log
  if build/gpu/tests/cuda/ogpsa_cuda_device_tests --source-file="*/$name.cpp" >"$log" 2>&1; then result=ok; else result="FAILED, see $log"; fi
  [ "$result" = ok ] || status=1
  printf '%-28s %s   %s\n' "${name#test_}" "$result" "$(grep -o 'assertions: *[0-9]*' "$log" | head -n 1)"
done
if [ -n "$torch" ]; then
  log=build/gpu/torch.log
  if build/gpu/tests/torch/cuda/ogpsa_torch_cuda_tests >"$log" 2>&1; then result=ok; else result="FAILED, see $log"; fi
  [ "$result" = ok ] || status=1
  printf '%-28s %s   %s\n' "LibTorch's CUDA tensors" "$result" "$(grep -o 'assertions: *[0-9]*' "$log" | head -n 1)"
else
  echo "LibTorch's CUDA tensors: left out, python3 has no PyTorch for CUDA"
fi
exit $status
