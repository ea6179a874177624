#!/usr/bin/env bash
# Installs what is missing (Debian or Ubuntu, as root or with sudo), builds, and passes all tests.
#
#   tests/run.sh [core|torch|cuda|sanitize|all]...
#
#   core      the library without LibTorch, each header alone, the short examples, each way in (tests/consumers)
#   torch     the LibTorch adapter with Debian's LibTorch 1.13, and where there is a CUDA toolkit also with the CUDA backend,
#             without a GPU; adapter and trainer with PyPI's 2.15
#   cuda      the CUDA backend without a GPU and without LibTorch (docs/gpu.md); needs the toolkit. In `all` it is in `torch`
#   sanitize  the core under ASan and UBSan, the threads under TSan
#
# Builds are in build/, logs in build/logs/. PyPI's LibTorch (1.3 GB) is kept in ${XDG_CACHE_HOME:-~/.cache}/ogpsa.
set -euo pipefail
cd "$(dirname "$0")/.."
. cmake/setup.sh

parts=${*:-all}
for part in $parts; do
  case $part in core | torch | cuda | sanitize | all) ;; *) fail "tests/run.sh: no part '$part'; parts are core, torch, cuda, sanitize, all" ;; esac
done
wanted() { [[ " $parts " == *" $1 "* || " $parts " == *" all "* ]]; }

# build_and_test NAME PRESET CMAKE-OPTION...: three stages in build/NAME.
build_and_test() {
  local name=$1 preset=$2
  shift 2
  stage "$name configure" cmake --preset "$preset" -B "build/$name" "${cmake_options[@]}" "$@"
  stage "$name build" cmake --build "build/$name" -j "$jobs"
  stage "$name test" ctest --test-dir "build/$name" -j "$jobs" --output-on-failure --no-tests=error
}

install_packages g++ cmake ninja-build make pkg-config ccache libeigen3-dev doctest-dev nlohmann-json3-dev libdlib-dev

if wanted core; then
  build_and_test core default
fi

if wanted torch; then
  install_packages libcli11-dev libfmt-dev libonig-dev libutf8proc-dev zlib1g-dev python3-pip
  if debian_torch; then
    install_packages "${debian_torch_packages[@]}"
    cuda=OFF
    if cuda_toolkit; then cuda=ON; else echo "torch-debian: without the CUDA backend, there is no CUDA toolkit here"; fi
    build_and_test torch-debian torch -DOGPSA_TORCH_DIR=/usr -DOGPSA_CUDA=$cuda -DOGPSA_CORE_TESTS=OFF -DOGPSA_ALIGN=OFF \
      -DOGPSA_HEADERS_ALONE=OFF
  else
    echo "torch-debian: left out, this system has no package libtorch-dev"
  fi
  stage "torch-pypi download" pypi_torch
  build_and_test torch-pypi torch -DOGPSA_TORCH_DIR="$pypi_torch_dir/torch" -DOGPSA_CORE_TESTS=OFF
fi

if [[ " $parts " == *" cuda "* ]]; then
  cuda_toolkit || fail "tests/run.sh: there is no CUDA toolkit here (12 or 13; CUDAToolkit_ROOT says where)"
  build_and_test cuda cuda
fi

if wanted sanitize; then
  build_and_test asan asan
  # g++'s OpenMP runtime hides its synchronisation from TSan, which then reports races where there are none. LLVM's runtime
  # tells TSan about it (Archer), so our parallel loops are checked, and not only callers on threads of their own.
  install_packages clang libomp-dev
  export TSAN_OPTIONS=ignore_noninstrumented_modules=1 OMP_NUM_THREADS=4 KMP_BLOCKTIME=0 # threads outnumber cores: no spinning
  build_and_test tsan tsan
fi

echo "$tests_passed passed, 0 failed"
