#!/usr/bin/env bash
# folder: your own audio. --corpus is a folder with audio files, --table their transcripts (TSV, CSV, |-separated or
# JSONL). Speakers are held out for dev and test. More audio without transcripts goes to --unlabelled.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/recipe_options.sh"

table=                  # transcripts of the audio files; empty: the one table that lies in --corpus
dev_share=0.1           # of the utterances, by whole speakers, for dev
test_share=0.1          # of the utterances, by whole speakers, for test
speeds="0.9 1.0 1.1"    # copies of the training set at these speeds
vocab_size=128          # word pieces, at most
INPUT_PATHS+=(table)

source "$ROOT/tools/parse_options.sh"
source "$ROOT/tools/recipe.sh"

run_stage 0 prepare_sets folder ${table:+--table "$table"} \
  --set "folder.dev_share=$dev_share" --set "folder.test_share=$test_share"
run_stage 1 extract_features
run_stage 2 train_text_models
run_stage 3 pretrain_encoder
run_stage 4 finetune_transducer
run_stage 5 decode_sets
run_stage 6 score_sets
