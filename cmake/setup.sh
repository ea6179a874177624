# Shell helpers of tests/run.sh, tests/run_gpu.sh, examples/run.sh and .ci/run; to be sourced from the top
# of the checkout.

jobs=$(nproc)
logs=build/logs
mkdir -p "$logs"

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

# install_packages NAME...: installs those Debian packages that are missing.
install_packages() {
  local missing=() name
  for name; do
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return
  command -v apt-get >/dev/null || fail "Please install these by hand (no apt-get here): ${missing[*]}"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "Please install these as root (no sudo here): apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  apt_install() {
    "${as_root[@]}" apt-get update &&
      "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
  }
  stage "install ${#missing[@]} packages" apt_install
}

# stage NAME COMMAND...: runs the command with its output in a log, and says how it went and how long it took.
stage() {
  local name=$1 start=$SECONDS log
  log=$logs/${name//[ \/]/-}.log
  shift
  printf '%-36s' "$name"
  if ! "$@" >"$log" 2>&1 </dev/null; then
    printf 'FAILED after %d s; the end of %s:\n\n' $((SECONDS - start)) "$log"
    tail -n 60 "$log"
    exit 1
  fi
  local passed
  passed=$(sed -n 's/^100% tests passed.* out of \([0-9]*\)$/\1/p' "$log" | tail -n 1)
  tests_passed=$((tests_passed + ${passed:-0}))
  printf 'ok %5d s%s\n' $((SECONDS - start)) "${passed:+   $passed tests}"
}
tests_passed=0

# Compiles go through ccache where there is one.
cmake_options=()
command -v ccache >/dev/null && cmake_options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
# What ccache needs for precompiled headers.
export CCACHE_SLOPPINESS=pch_defines,time_macros

# Without OpenBLAS, LibTorch falls back to the slow reference BLAS.
debian_torch_packages=(libtorch-dev libopenblas0-pthread)

# debian_torch: whether this system's packages have LibTorch, or can have it.
debian_torch() {
  dpkg-query -W -f='${Status}' libtorch-dev 2>/dev/null | grep -q 'ok installed' ||
    apt-cache show libtorch-dev >/dev/null 2>&1
}

# pypi_torch: LibTorch 2.15 from the Python package, in a folder that is kept between runs. The wheel is a CUDA build; two
# of the CUDA packages are enough for libtorch_cpu and libc10, which is all we link (1.3 GB instead of 5.4 GB).
pypi_torch_dir=${XDG_CACHE_HOME:-$HOME/.cache}/ogpsa/torch-2.15.0
pypi_torch() {
  [ -e "$pypi_torch_dir/torch/include" ] && return
  rm -rf "$pypi_torch_dir.part"
  python3 -m pip install --no-deps --no-cache-dir --only-binary :all: --target "$pypi_torch_dir.part" \
    torch==2.15.0 'nvidia-cuda-runtime==13.*' 'nvidia-cuda-cupti==13.*' &&
    mv "$pypi_torch_dir.part" "$pypi_torch_dir"
}

# cuda_toolkit: whether CMake will find one.
cuda_toolkit() {
  [ -n "${CUDAToolkit_ROOT:-}" ] || command -v nvcc >/dev/null || [ -e /usr/local/cuda/include/cuda_runtime_api.h ]
}

# install_for_gpu: what the programs for a GPU are built with, where it can be installed. A container has CMake or ninja
# from elsewhere too, so that the commands count and not the packages; CMake says what is missing in the end.
install_for_gpu() {
  local missing=()
  command -v c++ >/dev/null || missing+=(g++)
  command -v cmake >/dev/null || missing+=(cmake)
  command -v ninja >/dev/null || missing+=(ninja-build)
  [ -e /usr/include/eigen3/Eigen/Core ] || missing+=(libeigen3-dev)
  [ -e /usr/include/doctest/doctest.h ] || missing+=(doctest-dev)
  [ -e /usr/include/nlohmann/json.hpp ] || missing+=(nlohmann-json3-dev)
  [ ${#missing[@]} -eq 0 ] || ! command -v apt-get >/dev/null || install_packages "${missing[@]}"
}

# python_torch_cuda: prints the folder of python3's PyTorch, where that is one for CUDA; else nothing.
python_torch_cuda() {
  python3 -c 'import torch.version as v; import os; print(os.path.dirname(v.__file__) if v.cuda else "")' 2>/dev/null || true
}
