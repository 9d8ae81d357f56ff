#!/usr/bin/env bash
# mini_librispeech: some hours of LibriSpeech; --corpus is a folder with train-clean-5 and, where there are any, pieces
# of train-clean-100 (used without its text), dev-clean and test-clean. Whole speakers are held out for dev and test.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/recipe_options.sh"

test_sets="test dev_clean test_clean"    # sets to decode and score
pretrain_sets="train train_clean_100"    # sets to pre-train on, beside --unlabelled
speeds="0.9 1.0 1.1"                     # copies of the training set at these speeds
vocab_size=200                           # word pieces, at most: 7 a second; 40 would be 12, half of the encoder's frames

source "$ROOT/tools/parse_options.sh"
source "$ROOT/tools/recipe.sh"

run_stage 0 prepare_sets librispeech
run_stage 1 extract_features
run_stage 2 train_text_models
run_stage 3 pretrain_encoder
run_stage 4 finetune_transducer
run_stage 5 decode_sets
run_stage 6 score_sets
