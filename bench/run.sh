#!/usr/bin/env bash
# Installs what is missing, builds, measures ours and the peers one after the other, and prints one table.
#
#   bench/run.sh [FOLDER]      FOLDER (build/bench-results) gets the measurements and two pictures; 14 GB of memory are needed
#
# Timings mean something only on a machine that does nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
. cmake/setup.sh
folder=${1:-build/bench-results}
mkdir -p "$folder"
install_packages g++ cmake ninja-build libeigen3-dev libbenchmark-dev python3-venv
stage "bench configure" cmake --preset default -B build/bench "${cmake_options[@]}" -DOGPSA_BUILD_TESTS=OFF \
  -DOGPSA_BUILD_EXAMPLES=OFF -DOGPSA_BUILD_BENCH=ON
stage "bench build" cmake --build build/bench -j "$jobs"
peers_folder=${XDG_CACHE_HOME:-$HOME/.cache}/ogpsa/bench-peers
get_peers() {
  python3 -m venv "$peers_folder" && "$peers_folder/bin/pip" install numpy scikit-learn torch matplotlib
}
stage "peers" get_peers
measure() { "build/bench/bench/bench_$1" --benchmark_out="$folder/$1.json" "${@:2}"; }
for program in projection structured estimation; do stage "measure $program" measure "$program"; done
stage "measure scaling" measure scaling --benchmark_enable_random_interleaving=true
measure_peers() { "$peers_folder/bin/python" bench/peers.py >"$folder/peers.jsonl"; }
stage "measure peers" measure_peers
stage "plot" "$peers_folder/bin/python" bench/plot.py "$folder" "$folder"
{ python3 bench/table.py "$folder"; echo; bench/compile_time.sh; } | tee "$folder/table.md"
