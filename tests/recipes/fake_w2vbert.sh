#!/usr/bin/env bash
# Stands in for w2vbert in the tests of the recipes: records its arguments, one call a line, in $CALLS, makes the files
# that the next stage asks for, exits with $FAIL_CODE where the verb is $FAIL_VERB, waits where it is $WAIT_VERB.
set -euo pipefail
printf '%q ' "$@" | sed 's/ $/\n/' >>"$CALLS"
[[ $1 != "${FAIL_VERB-}" ]] || exit "$FAIL_CODE"
if [[ $1 == "${WAIT_VERB-}" ]]; then # until a signal comes, as a training does that then saves its state
  trap 'sleep 0.3; exit 75' TERM
  trap 'exit 130' INT
  touch "$CALLS.waits"
  for _ in {1..300}; do sleep 0.1; done
fi
arguments=("$@")
while (($#)); do
  [[ $1 != --out ]] || out=$2
  shift
done
case ${arguments[0]} in
  prepare)
    for name in $SETS; do
      mkdir -p "$out/$name"
      touch "$out/$name/wav.scp" "$out/$name/text" "$out/$name/utt2spk"
    done
    ;;
  fbank) mkdir -p "$out" && touch "$out/feats.scp" ;;
  tokenizer) mkdir -p "$out" && touch "$out/bpe.model" ;;
  ngram) mkdir -p "${out%/*}" && touch "$out" ;;
  lm | pretrain) mkdir -p "$out/model" && touch "$out/model/MANIFEST.json" ;;
  finetune) mkdir -p "$out/checkpoints" ;;
  decode) mkdir -p "$out" && touch "$out/text" ;;
  score)
    echo '{"wer": 12.5, "cer": 3.25, "ref_words": 8, "errors": 1, "sub": 1, "del": 0, "ins": 0, "utterances": 2}' \
      >"$out/wer.json"
    ;;
esac
