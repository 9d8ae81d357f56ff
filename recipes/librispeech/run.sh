#!/usr/bin/env bash
# librispeech: the experiments of the W2V-BERT paper. --corpus is a folder with the official layout, or the one to
# --download to; --librilight is a folder with Libri-Light, to pre-train on in place of LibriSpeech's own audio.
#
#   ./run.sh --download --size base --ngpu 8
#   ./run.sh --corpus /data/LibriSpeech --librilight /data/librilight --stop-stage 2
# and on each of 8 machines, with its number:
#   ./run.sh --librilight /data/librilight --size xl --ngpu 8 --num-nodes 8 --node-rank 0 --master node0:29500 \
#     --stage 3 --stop-stage 3
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/recipe_options.sh"

corpus=downloads                         # folder of the corpus
download=false                           # fetch the corpus there first
librilight=                              # folder of Libri-Light
size=base                                # base (about 100 M parameters), xl (0.6 B) or xxl (1.0 B)
labelled=960h                            # fine-tune on 960h or 100h
tag=                                     # the fine-tuned model is exp/asr_<tag>; empty: <labelled>_<size>
pretrain_tag=                            # the pre-trained model is exp/pretrain_<tag>; empty: the value of --size
pretrain_config=                         # configuration of stage 3; empty: conf/pretrain_<size>.yaml
finetune_config=                         # configuration of stage 4; empty: conf/finetune_<labelled>_<size>.yaml
train_sets=                              # sets to fine-tune on; empty: as --labelled says
pretrain_sets=                           # sets to pre-train on; empty: Libri-Light's three parts, without it the 960 h
dev_set=dev-other                        # set that chooses checkpoints
test_sets="dev-clean dev-other test-clean test-other" # sets to decode and score
vocab_size=1024                          # word pieces, at most
INPUT_PATHS+=(librilight)

source "$ROOT/tools/parse_options.sh"
declare -A HOURS=(
  [100h]="train-clean-100"
  [960h]="train-clean-100 train-clean-360 train-other-500"
)
is_among "$size" base xl xxl || fail 2 "--size is base, xl or xxl, not '$size'"
is_among "$labelled" "${!HOURS[@]}" || fail 2 "--labelled is 960h or 100h, not '$labelled'"
tag=${tag:-${labelled}_$size}
pretrain_tag=${pretrain_tag:-$size}
pretrain_config=${pretrain_config:-conf/pretrain_$size.yaml}
finetune_config=${finetune_config:-conf/finetune_${labelled}_$size.yaml}
train_sets=${train_sets:-${HOURS[$labelled]}}
PARTS="$train_sets $dev_set $test_sets"
if [[ -n $librilight ]]; then
  pretrain_sets=${pretrain_sets:-small medium large}
else
  pretrain_sets=${pretrain_sets:-${HOURS[960h]}}
  PARTS+=" $pretrain_sets"
fi
FETCH=()
[[ $download == false ]] || FETCH=(--download)
source "$ROOT/tools/recipe.sh"

if [[ -n $librilight ]]; then
  run_stage 0 prepare_corpus librilight "$librilight" --set "parts=[${pretrain_sets// /, }]"
fi
run_stage 0 prepare_sets librispeech --set "parts=[${PARTS// /, }]" "${FETCH[@]}"
run_stage 1 extract_features
run_stage 2 train_text_models
run_stage 3 pretrain_encoder
run_stage 4 finetune_transducer
run_stage 5 decode_sets
run_stage 6 score_sets
