#!/usr/bin/env bash
# What each public header costs to compile, and short programs, alone and with ogpsa::compiled, beside <Eigen/Dense>:
# seconds of processor time (user), the least of several runs in turn, and the ratio to Eigen's. On a busy machine even
# these are rough (30 % and more).
#
#   bench/compile_time.sh [RUNS]      RUNS (3) of each; CXX (g++), EIGEN (/usr/include/eigen3) and FLAGS (-O2) may be set
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-3}
compile=(${CXX:-g++} -std=c++20 ${FLAGS:--O2} -Iinclude -isystem "${EIGEN:-/usr/include/eigen3}" -x c++ -c - -o /dev/null)

declare -A program
program["estimate and project"]='#include <ogpsa/ogpsa.hpp>
void f(const Eigen::MatrixXf& reference_gradients, Eigen::VectorXf& gradient) {
  auto subspace = ogpsa::estimate(reference_gradients, {.max_rank = 2});
  ogpsa::project(gradient, subspace);
}'
whole_model='
void f(std::span<const ogpsa::ConstTensorView> reference_gradients, std::span<const ogpsa::TensorView> gradients) {
  ogpsa::Projector<float> projector({{.name = "w", .rows = 64, .cols = 32 FORM}}, {.refresh_every = 30});
  auto reference = projector.begin_refresh();
  reference.add(0, reference_gradients, 8);
  projector.finish_refresh(std::move(reference), 0);
  projector.project_gradients(gradients);
}'
program["Projector"]="#include <ogpsa/ogpsa.hpp>${whole_model/FORM/}"
program["Projector, structured"]="#include <ogpsa/ogpsa.hpp>${whole_model/FORM/, .form = ogpsa::Form::input}"

names=("<Eigen/Dense>")
program["<Eigen/Dense>"]="#include <Eigen/Dense>"
for header in error tensor_view backend/eigen rank orthonormalize thin_svd subspace structured projection_modes projection \
  reference diagnostics projector safetensors state ogpsa; do
  names+=("<ogpsa/$header.hpp>")
  program["<ogpsa/$header.hpp>"]="#include <ogpsa/$header.hpp>"
done
programs=("estimate and project" "Projector" "Projector, structured")
names+=("${programs[@]}")
for name in "${programs[@]}"; do
  names+=("$name, with ogpsa::compiled")
  program["$name, with ogpsa::compiled"]="#define OGPSA_COMPILED"$'\n'"${program[$name]}"
done
names+=("ogpsa::compiled itself")
program["ogpsa::compiled itself"]="#include <ogpsa/compiled.cpp>"

TIMEFORMAT=%U
declare -A least
for ((run = 0; run < runs; ++run)); do
  for name in "${names[@]}"; do
    seconds=$({ time "${compile[@]}" <<<"${program[$name]}"; } 2>&1)
    least[$name]=$(printf '%s\n' "$seconds" "${least[$name]:-$seconds}" | sort -g | head -n 1)
  done
done

echo "| ${compile[0]} ${FLAGS:--O2} | seconds | times Eigen's |"
echo "|---|---|---|"
for name in "${names[@]}"; do
  awk -v name="$name" -v own="${least[$name]}" -v eigen="${least["<Eigen/Dense>"]}" \
    'BEGIN { gsub(/</, "`<", name); gsub(/>/, ">`", name); printf "| %s | %.2f | %.1f |\n", name, own, own / eigen }'
done
