#!/usr/bin/env bash
# Installs what is missing (Debian or Ubuntu, as root or with sudo), builds the trainer of examples/align, and runs it:
# without arguments its embedded default, which takes a few minutes on 2 cores and prints a table.
#
#   examples/run.sh [ARGUMENT OF ogpsa_align]...      examples/run.sh --help
#
# LibTorch is the one that OGPSA_TORCH_DIR names, else an installed PyTorch, else Debian's, else PyPI's wheel.
set -euo pipefail
caller=$PWD
cd "$(dirname "$0")/.."
root=$PWD
. cmake/setup.sh

install_packages g++ cmake ninja-build ccache pkg-config libeigen3-dev libcli11-dev libfmt-dev nlohmann-json3-dev \
  libonig-dev libutf8proc-dev zlib1g-dev
python_torch() { python3 -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' 2>/dev/null; }
torch_dir=${OGPSA_TORCH_DIR:-}
if [ -z "$torch_dir" ] && ! python_torch; then
  if debian_torch; then
    install_packages "${debian_torch_packages[@]}"
  else
    install_packages python3-pip
    stage "download LibTorch" pypi_torch
    torch_dir=$pypi_torch_dir/torch
  fi
fi

stage "configure" cmake --preset torch -B build/align "${cmake_options[@]}" -DOGPSA_TORCH_DIR="$torch_dir" \
  -DOGPSA_BUILD_TESTS=OFF
stage "build" cmake --build build/align -j "$jobs" --target ogpsa_align
# glibc (2.35 or later) asks for large pages: tensors come and go in every step, and a step of SmolLM2-135M spent about a
# tenth of its time on having small pages cleared.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
cd "$caller" # paths among the arguments are the caller's
exec "$root/build/align/examples/align/ogpsa_align" "$@"
