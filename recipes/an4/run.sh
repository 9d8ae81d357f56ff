#!/usr/bin/env bash
# an4: census data and spelled words; --corpus is the folder with etc/ and wav/.
#
# --pretrain none trains from scratch, own pre-trains on AN4's training audio, all on that and on --unlabelled. Each has
# experiments of its own, named after it; for another seed of the fine-tuning alone:
#   ./run.sh --pretrain own --seed 2 --tag own_seed2 --stage 4
# --init ../mini_librispeech/exp/asr_base goes on from a model that has been fine-tuned elsewhere.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/recipe_options.sh"

pretrain=own                 # none, own or all
tag=                         # the fine-tuned model is exp/asr_<tag>; empty: the value of --pretrain
pretrain_tag=                # the pre-trained model is exp/pretrain_<tag>; empty: the value of --pretrain
train_sets=train_nodev       # sets to fine-tune on
pretrain_sets=train_nodev    # sets to pre-train on, beside --unlabelled
dev_set=train_dev            # training utterances of held-out speakers
test_sets="train_dev test"   # sets to decode and score
speeds="0.9 1.0 1.1"         # copies of the training sets at these speeds
vocab_size=30              # word pieces, at most: little more than letters, each of them heard often

source "$ROOT/tools/parse_options.sh"
case $pretrain in
  none) pretrain_sets="" unlabelled="" ;;
  own) unlabelled="" ;;
  all) [[ -n $unlabelled ]] || fail 2 "--pretrain all needs --unlabelled DIR,..." ;;
  *) fail 2 "--pretrain is none, own or all, not '$pretrain'" ;;
esac
tag=${tag:-$pretrain}
pretrain_tag=${pretrain_tag:-$pretrain}
source "$ROOT/tools/recipe.sh"

run_stage 0 prepare_sets an4
run_stage 1 extract_features
run_stage 2 train_text_models
run_stage 3 pretrain_encoder
run_stage 4 finetune_transducer
run_stage 5 decode_sets
run_stage 6 score_sets
