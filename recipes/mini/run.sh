#!/usr/bin/env bash
# mini: speech that the recipe synthesizes itself, offline, with other voices for testing than for training.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/recipe_options.sh"

vocab_size=64  # word pieces, at most

source "$ROOT/tools/parse_options.sh"
source "$ROOT/tools/recipe.sh"

run_stage 0 prepare_sets mini
run_stage 1 extract_features
run_stage 2 train_text_models
run_stage 3 pretrain_encoder
run_stage 4 finetune_transducer
run_stage 5 decode_sets
run_stage 6 score_sets
