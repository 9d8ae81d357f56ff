#!/usr/bin/env bash
# librilight: pre-train on the small part of Libri-Light (577 hours), fine-tune on 100 hours of LibriSpeech. --corpus is
# a folder with Libri-Light's parts, --librispeech one with LibriSpeech's train-clean-100, dev and test sets.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/recipe_options.sh"

librispeech=                                            # folder of LibriSpeech
pretrain_sets=small                                     # parts of Libri-Light to pre-train on, beside --unlabelled
train_sets=train-clean-100                              # sets to fine-tune on
dev_set=dev-other                                       # set that chooses checkpoints
test_sets="dev-clean dev-other test-clean test-other"   # sets to decode and score
vocab_size=256                                          # word pieces, at most
INPUT_PATHS+=(librispeech)

source "$ROOT/tools/parse_options.sh"
PARTS="$train_sets $dev_set $test_sets"
source "$ROOT/tools/recipe.sh"

run_stage 0 prepare_corpus librispeech "$librispeech" --set "parts=[${PARTS// /, }]"
run_stage 0 prepare_sets librilight --set "parts=[${pretrain_sets// /, }]"
run_stage 1 extract_features
run_stage 2 train_text_models
run_stage 3 pretrain_encoder
run_stage 4 finetune_transducer
run_stage 5 decode_sets
run_stage 6 score_sets
