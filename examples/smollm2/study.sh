#!/usr/bin/env bash
# The runs behind docs/results.md: SFT, DPO and SFT -> DPO of SmolLM2-135M-Instruct, with and without protection.
#
#   examples/smollm2/study.sh ALIGN CHECKPOINT DATA FOLDER [ARM]...
#
# ALIGN is the program ogpsa_align, CHECKPOINT what examples/smollm2.sh made of the published weights
# (FOLDER/SmolLM2-135M-Instruct there). DATA has the files that study.toml and heal() name; docs/results.md says where they
# come from. Each ARM (all where none is named) leaves a run in FOLDER/runs; SEEDS (default 0) says how often it is
# repeated, JOBS (default: one for each core) how many run side by side, on one thread and in up to 10 GB each. The same
# command goes on with what is there.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
align=$(realpath "$1") checkpoint=$(realpath "$2") data=$(realpath "$3")
mkdir -p "$4/runs"
folder=$(realpath "$4") here=$(realpath "$(dirname "$0")")
shift 4

sft="--sft_dataset $data/safety_sft/safety_tuned_llamas_train.jsonl"
dpo="--dpo_dataset $data/safety_dpo/pku_saferlhf_dpo_train.jsonl"
replay="--sft_replay_dataset $data/general_sft/ultrafeedback_sft_train.jsonl,$data/general_sft/halueval_qa_train.jsonl"

# Name of the arm, its options.
arms() {
  cat <<ARMS
sft-plain-1e-5               $sft --method plain --sft_learning_rate 1e-5
sft-plain-2e-5               $sft --method plain --sft_learning_rate 2e-5
sft-replay-5e-5              $sft --method plain --sft_learning_rate 5e-5 $replay --replay_ratio 0.3334
sft-ogpsa_step-5e-5          $sft --method ogpsa-step --sft_learning_rate 5e-5 --sft_refresh_every 20
sft-structured-5e-5          $sft --method structured --sft_learning_rate 5e-5
sft-structured_gradient-5e-5 $sft --method structured-gradient --sft_learning_rate 5e-5
sft-structured_gradient-1e-4 $sft --method structured-gradient --sft_learning_rate 1e-4
sft-structured_10-1e-4       $sft --method structured --sft_learning_rate 1e-4 --max_share 0.1
sft-structured_50-1e-4       $sft --method structured --sft_learning_rate 1e-4 --max_share 0.5
sft-lora_plain-2e-4          $sft --method plain --sft_learning_rate 2e-4 --lora_r 16
sft-lora_plain-5e-4          $sft --method plain --sft_learning_rate 5e-4 --lora_r 16
sft-lora_structured-5e-4     $sft --method structured --sft_learning_rate 5e-4 --lora_r 16
sft-lora_structured-1e-3     $sft --method structured --sft_learning_rate 1e-3 --lora_r 16
sft-lora_structured-2e-3     $sft --method structured --sft_learning_rate 2e-3 --lora_r 16
sft-lora_structured_10-1e-3  $sft --method structured --sft_learning_rate 1e-3 --lora_r 16 --max_share 0.1
sft-structured_output-1e-4   $sft --method structured --sft_learning_rate 1e-4 --form output
sft-structured_both-1e-4     $sft --method structured --sft_learning_rate 1e-4 --form both
sft-structured_soft-1e-4     $sft --method structured --sft_learning_rate 1e-4 --max_share 1 --damping 0.1
sft-structured_stream-1e-4   $sft --method structured --sft_learning_rate 1e-4 --sft_refresh_every 20 --streaming
dpo-plain-1e-5               $dpo --method plain --dpo_learning_rate 1e-5
dpo-plain-2e-5               $dpo --method plain --dpo_learning_rate 2e-5
dpo-plain-5e-5               $dpo --method plain --dpo_learning_rate 5e-5
dpo-ogpsa-2e-5               $dpo --method ogpsa --dpo_learning_rate 2e-5 --dpo_refresh_every 10
dpo-structured-2e-5          $dpo --method structured --dpo_learning_rate 2e-5
dpo-structured-5e-5          $dpo --method structured --dpo_learning_rate 5e-5
sft_dpo-plain                $sft $dpo --method plain --sft_learning_rate 5e-5 --dpo_learning_rate 1e-5
sft_dpo-ogpsa                $sft $dpo --method ogpsa --sft_learning_rate 5e-5 --sft_refresh_every 20 --dpo_learning_rate 1e-5 --dpo_refresh_every 10
sft_dpo-structured           $sft $dpo --method structured --sft_learning_rate 1e-4 --dpo_learning_rate 2e-5
ARMS
}

# The weights come from 4 bits: general training repairs that, or every run would look as if it gained capability.
heal() {
  [ -e "$folder/heal/summary.json" ] || "$align" train --model_name_or_path "$checkpoint" --output_dir "$folder/heal" \
    --method plain $precision --dtype float32 --max_length 256 --seed 3 --sft_learning_rate 5e-5 --sft_num_train_epochs 1 \
    --sft_max_steps 160 --sft_max_rows 400 --sft_dataset "$(printf ',%s' "$data"/general_sft/{ultrafeedback_sft,alpaca_en_demo,halueval_general,gsm8k,arc}_train.jsonl | cut -c 2-)"
}

# run NAME SEED OPTION...: the base is evaluated in the first run alone.
run() {
  local run=$folder/runs/$1-seed$2 seed=$2
  shift 2
  mkdir -p "$run"
  [ ! -e "$folder/base.json" ] || cp -n "$folder/base.json" "$run/"
  if OMP_NUM_THREADS=1 "$align" train --config "$folder/study.toml" --model_name_or_path "$folder/heal/sft/model" \
    --output_dir "$run" --seed "$seed" $precision "$@" >"$run.log" 2>&1; then
    cp -n "$run/base.json" "$folder/"
    echo "$run: done"
  else
    echo "$run: failed, see $run.log"
  fi
}
export -f run
. "$here/machine.sh"
export align folder precision

sed "s|@DATA@|$data|g" "$here/study.toml" >"$folder/study.toml"
heal
for seed in ${SEEDS:-0}; do
  for arm in "${@:-all}"; do
    arms | awk -v arm="$arm" -v seed="$seed" 'arm == "all" || $1 == arm { $1 = $1 " " seed; print }'
  done
done | xargs -P "${JOBS:-$(nproc)}" -I {} bash -c 'run {}'
