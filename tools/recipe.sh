# The stages that recipes are made of. Sourced by a run.sh below parse_options.sh; the run.sh is then a table of stages:
#
#   run_stage 0 prepare_sets an4
#   run_stage 1 extract_features
#
# A stage checks its inputs, prints each command, runs it, and passes its exit code on. What a stage does is verbs of
# w2vbert, and they know whether an output is whole and where a training goes on.
# shellcheck shell=bash disable=SC2154 # the options are set in recipe_options.sh and run.sh

# --- what the options say together ---

unlabelled_set() { # DIR: the set that is made of it
  local name
  name=$(basename "$1")
  printf 'unlabelled_%s' "${name//[^[:alnum:]_.-]/_}"
}

[[ $features == dump || $features == online ]] || fail 2 "--features is dump or online, not '$features'"
((stage <= stop_stage && stop_stage <= 6)) || fail 2 "--stage $stage --stop-stage $stop_stage: stages go from 0 to 6"
((ngpu > 0 && num_nodes > 0 && nproc > 0)) || fail 2 "--ngpu, --num-nodes and --nproc are at least 1"
((num_nodes == 1 || (stage == stop_stage && (stage == 3 || stage == 4)))) ||
  fail 2 "--num-nodes $num_nodes: several machines do one training at a time: --stage 3 --stop-stage 3, or 4 and 4"

read -ra TRAIN_SETS <<<"$train_sets"
read -ra TEST_SETS <<<"$test_sets"
read -ra PRETRAIN_SETS <<<"$pretrain_sets"
read -ra SPEEDS <<<"$speeds"
IFS=, read -ra UNLABELLED <<<"$unlabelled"
for dir in "${UNLABELLED[@]}"; do
  name=$(unlabelled_set "$dir")
  ! is_among "$name" "${PRETRAIN_SETS[@]}" || fail 2 "--unlabelled: two folders make the set $name; rename one"
  PRETRAIN_SETS+=("$name")
done

ALL_SETS=()
for name in "${TRAIN_SETS[@]}" "${PRETRAIN_SETS[@]}" "$dev_set" "${TEST_SETS[@]}"; do
  is_among "$name" "${ALL_SETS[@]}" || ALL_SETS+=("$name")
done

TOKENIZER=${tokenizer:-$data_dir/tokenizer/bpe.model}
PRETRAIN_EXP=$exp_dir/pretrain_$pretrain_tag
ASR_EXP=$exp_dir/asr_$tag
SEARCH=$search${beam_size:+${search:+_}beam$beam_size} # empty: the recipe's default search
[[ $lm == none ]] || SEARCH+=${SEARCH:+_}${lm_tag:-$lm}
SEARCH=${decode_tag:-$SEARCH}
DECODE_DIR=$ASR_EXP/decode${SEARCH:+_$SEARCH}
SEED=(${seed:+--seed "$seed"})
ONLINE=()
[[ $features == dump ]] || ONLINE=(--set data.features=online)
LM_EXP=$exp_dir/lm_${lm_tag:-$lm}
case $lm in
  none) ;;
  ngram) LM=$LM_EXP/lm.arpa ;;
  transformer) LM=$LM_EXP/model ;;
  *) fail 2 "--lm is none, ngram or transformer, not '$lm'" ;;
esac
[[ $lm == none || -z $decode_config ]] || fail 2 "--decode-config and --lm: with a language model, tuning says how to decode"

# --- where it runs ---

if [[ -z ${W2VBERT_ENV-} ]]; then # W2VBERT_ENV: a virtual environment made by other means, in place of .venv
  "$ROOT/tools/install.sh"
fi
export PATH=${W2VBERT_ENV:-$ROOT/.venv}/bin:$PATH
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((nproc > ngpu ? nproc / ngpu : 1))}

# --- the driver ---

run_stage() { # NUMBER FUNCTION ARGUMENT...
  CURRENT=$1
  ((stage <= CURRENT && CURRENT <= stop_stage)) || return 0
  printf '\n== stage %s: %s ==\n' "$CURRENT" "${2//_/ }" >&2
  "${@:2}"
}

run() { # COMMAND ARGUMENT...
  show "$@"
  "$@"
}

show() { # COMMAND ARGUMENT...
  printf '+%s\n' "$(printf ' %q' "$@")" >&2
}

pass_signals_on() { # COMMAND ARGUMENT...: SIGTERM and SIGUSR1 to this script end the command, which saves its state
  local code=0 pid
  show "$@"
  set -m # a process group of its own, where Ctrl-C is not ignored; it is passed on, too
  "$@" &
  pid=$!
  set +m
  trap 'kill -TERM "$pid" 2>/dev/null || true' TERM USR1
  trap 'kill -INT "$pid" 2>/dev/null || true' INT
  wait "$pid" || code=$?
  while kill -0 "$pid" 2>/dev/null; do # a signal ends a wait, not the command
    code=0
    wait "$pid" || code=$?
  done
  trap - TERM USR1 INT
  return "$code"
}

train() { # VERB ARGUMENT...: in one process, or in one for each GPU
  if ((ngpu * num_nodes == 1)); then
    pass_signals_on w2vbert "$@"
  else
    pass_signals_on torchrun --nnodes "$num_nodes" --node-rank "$node_rank" --nproc-per-node "$ngpu" \
      --master-addr "${master%:*}" --master-port "${master##*:}" -m w2vbert_asr "$@"
  fi
}

MISSING=()
FIRST_STAGE=""
require() { # STAGE PATH...: what the current stage reads and that one makes; in the order of the stages
  local path
  for path in "${@:2}"; do
    [[ ! -e $path ]] || continue
    MISSING+=("$path, which stage $1 makes")
    FIRST_STAGE=${FIRST_STAGE:-$1}
  done
}

check_inputs() {
  ((${#MISSING[@]} == 0)) || fail 3 "stage $CURRENT: missing input$(printf '\n  %s' "${MISSING[@]}")
  run the stages before it first: the same command with --stage $FIRST_STAGE"
}

use_dumps() { # SET...: sets DUMPS to their folders, made by stage 1
  local name
  DUMPS=()
  local table=feats.scp
  [[ $features == dump ]] || table=utt2num_frames
  for name in "$@"; do
    [[ -e $dump_dir/$name/$table ]] || require 0 "$data_dir/$name/wav.scp"
  done
  for name in "$@"; do
    require 1 "$dump_dir/$name/$table"
    DUMPS+=("$dump_dir/$name")
  done
}

# --- the stages ---

prepare_corpus() { # CORPUS SOURCE ARGUMENT...
  local options=()
  [[ -z $2 ]] || options+=(--source "$2")
  [[ ! -f conf/prepare.yaml ]] || options+=(--config conf/prepare.yaml)
  run w2vbert prepare "$1" "${options[@]}" --out "$data_dir" --num-jobs "$nproc" "${@:3}"
}

prepare_sets() { # CORPUS ARGUMENT...: the sets of --corpus and of --unlabelled
  local dir folders=() name
  prepare_corpus "$1" "$corpus" "${@:2}"
  for dir in "${UNLABELLED[@]}"; do
    run w2vbert prepare folder --source "$dir" --out "$data_dir" --num-jobs "$nproc" \
      --set folder.unlabelled=true --set "folder.set_name=$(unlabelled_set "$dir")"
  done
  for name in "${ALL_SETS[@]}"; do
    folders+=("$data_dir/$name")
  done
  run w2vbert validate "${folders[@]}" --num-jobs "$nproc"
}

extract_features() {
  local name options
  for name in "${ALL_SETS[@]}"; do
    require 0 "$data_dir/$name/wav.scp"
  done
  check_inputs
  for name in "${ALL_SETS[@]}"; do
    options=()
    ! is_among "$name" "${TRAIN_SETS[@]}" "${PRETRAIN_SETS[@]}" || options+=(--stats)
    if [[ $features == online ]]; then
      options+=(--online)
    elif is_among "$name" "${TRAIN_SETS[@]}"; then
      options+=(--speeds "${SPEEDS[@]}")
    fi
    run w2vbert fbank "$data_dir/$name" --out "$dump_dir/$name" "${options[@]}" --num-jobs "$nproc"
  done
}

train_text_models() {
  train_tokenizer
  [[ $lm == none ]] || train_language_model
}

train_tokenizer() { # on the transcripts of the training sets alone
  local name texts=()
  if [[ -n $tokenizer ]]; then
    printf 'uses %s\n' "$tokenizer" >&2
    return
  fi
  for name in "${TRAIN_SETS[@]}"; do
    texts+=("$data_dir/$name/text")
  done
  require 0 "${texts[@]}"
  check_inputs
  run w2vbert tokenizer --text "${texts[@]}" --vocab-size "$vocab_size" --out "$data_dir/tokenizer"
}

train_language_model() { # on those and --lm-text, without the speakers of dev and test
  local name texts=() options=(--dev "$data_dir/$dev_set/text" --held-out "$data_dir/$dev_set") more
  for name in "${TRAIN_SETS[@]}" "$dev_set"; do
    require 0 "$data_dir/$name/text"
  done
  for name in "${TEST_SETS[@]}"; do
    require 0 "$data_dir/$name/utt2spk"
    [[ $name == "$dev_set" ]] || options+=("$data_dir/$name")
  done
  check_inputs
  for name in "${TRAIN_SETS[@]}"; do
    texts+=("$data_dir/$name/text")
  done
  IFS=, read -ra more <<<"$lm_text"
  options+=(--text "${texts[@]}" "${more[@]}")
  IFS=, read -ra more <<<"$lm_lines"
  ((${#more[@]} == 0)) || options+=(--lines "${more[@]}")
  options+=(--tokenizer "$TOKENIZER")
  read -ra more <<<"$lm_args"
  if [[ $lm == ngram ]]; then
    run w2vbert ngram "${options[@]}" --out "$LM" "${more[@]}"
  else
    [[ ! -f conf/lm.yaml ]] || options+=(--config conf/lm.yaml)
    train lm "${options[@]}" --out "$LM_EXP" "${SEED[@]}" "${more[@]}"
  fi
}

pretrain_encoder() {
  local from=() more
  if [[ ${#PRETRAIN_SETS[@]} == 0 || -n $init ]]; then
    printf 'nothing to do: fine-tuning starts from %s\n' "${init:-scratch}" >&2
    return
  fi
  [[ -z $pretrain_init ]] || from=(--init "$pretrain_init")
  use_dumps "${PRETRAIN_SETS[@]}" "$dev_set"
  check_inputs
  read -ra more <<<"$pretrain_args"
  train pretrain --config "$pretrain_config" --train "${DUMPS[@]::${#PRETRAIN_SETS[@]}}" --dev "$dump_dir/$dev_set" \
    "${from[@]}" --out "$PRETRAIN_EXP" "${SEED[@]}" "${ONLINE[@]}" "${more[@]}"
}

finetune_transducer() {
  local from=() more speeds_list
  use_dumps "${TRAIN_SETS[@]}" "$dev_set"
  require 2 "$TOKENIZER"
  if [[ -n $init ]]; then
    from=(--init "$init")
  elif ((${#PRETRAIN_SETS[@]})); then
    require 3 "$PRETRAIN_EXP/model/MANIFEST.json" # written when pre-training has ended
    from=(--init "$PRETRAIN_EXP/model")
  fi
  check_inputs
  read -ra more <<<"$finetune_args"
  if [[ $features == online ]]; then
    speeds_list=$(IFS=, && printf '[%s]' "${SPEEDS[*]}")
    more=("${ONLINE[@]}" --set "data.speeds=$speeds_list" "${more[@]}")
  fi
  train finetune --config "$finetune_config" --train "${DUMPS[@]::${#TRAIN_SETS[@]}}" --dev "$dump_dir/$dev_set" \
    --tokenizer "$TOKENIZER" "${from[@]}" --out "$ASR_EXP" "${SEED[@]}" "${more[@]}"
}

decode_sets() {
  local name options=() tune_sets=() tuned=$ASR_EXP/tune_$SEARCH
  [[ $lm == none ]] || tune_sets=("$dev_set")
  use_dumps "${tune_sets[@]}" "${TEST_SETS[@]}"
  [[ $lm == none ]] || require 2 "$LM"
  require 4 "$ASR_EXP/checkpoints"
  check_inputs
  [[ -z $decode_config ]] || options+=(--config "$decode_config")
  [[ -z $search ]] || options+=(--search "$search")
  [[ -z $beam_size ]] || options+=(--beam-size "$beam_size")
  run w2vbert average --exp "$ASR_EXP" --num "$num_average" --out "$ASR_EXP/model"
  if [[ $lm != none ]]; then
    run w2vbert tune --model "$ASR_EXP/model" --data "$dump_dir/$dev_set" --lm "$LM" "${options[@]}" --out "$tuned"
    options=(--config "$tuned/decode.yaml")
  fi
  for name in "${TEST_SETS[@]}"; do
    run w2vbert decode --model "$ASR_EXP/model" --data "$dump_dir/$name" --out "$DECODE_DIR/$name" "${options[@]}"
  done
}

score_sets() {
  local name
  for name in "${TEST_SETS[@]}"; do
    require 0 "$data_dir/$name/text"
  done
  for name in "${TEST_SETS[@]}"; do
    require 5 "$DECODE_DIR/$name/text"
  done
  check_inputs
  for name in "${TEST_SETS[@]}"; do
    run w2vbert score --ref "$data_dir/$name/text" --hyp "$DECODE_DIR/$name/text" --out "$DECODE_DIR/$name"
  done
  [[ ! -d $PRETRAIN_EXP ]] || run w2vbert report "$PRETRAIN_EXP"
  run w2vbert report "$ASR_EXP"
  for name in "${TEST_SETS[@]}"; do
    print_wer "$tag $name" "$DECODE_DIR/$name/wer.json"
  done
}

print_wer() { # LABEL FILE
  python3 -ISc 'import json, sys
label, path = sys.argv[1:]
with open(path, encoding="utf-8") as file:
    wer = json.load(file)
print("%s: WER %.2f %% (%d errors in %d words: %d sub, %d del, %d ins), CER %.2f %%, %d utterances" % (
    label, wer["wer"], wer["errors"], wer["ref_words"], wer["sub"], wer["del"], wer["ins"], wer["cer"], wer["utterances"]))
' "$@"
}
