# The options that every recipe has. A run.sh sources this file first, sets other defaults and options of its own below
# it, then sources parse_options.sh, which reads names, defaults and comments from the text of both files.
# shellcheck shell=bash disable=SC2034 # the variables are used by recipe.sh

CALLER_DIR=$PWD # what paths on the command line are relative to
RUN_SH=$(basename "$0")
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$(dirname "$0")" || exit 1

# Options whose values are paths: what is read (it may also lie in the recipe's own folder), lists of such, and what is
# written.
INPUT_PATHS=(corpus init pretrain_init tokenizer pretrain_config finetune_config decode_config)
PATH_LISTS=(unlabelled lm_text lm_lines)
OUTPUT_PATHS=(data_dir dump_dir exp_dir)

stage=0                               # first stage to run
stop_stage=6                          # last stage to run
corpus=                               # folder of the corpus
unlabelled=                           # more audio for pre-training, without transcripts: DIR,DIR,...
data_dir=data                         # for data directories and the tokenizer
dump_dir=dump                         # for filterbanks
exp_dir=exp                           # for experiments
nproc=$(nproc 2>/dev/null || echo 1)  # processes and threads

train_sets=train                      # sets to fine-tune on
dev_set=dev                           # set that chooses checkpoints
test_sets="test"                      # sets to decode and score
pretrain_sets=train                   # sets to pre-train on, beside --unlabelled; empty: no pre-training
speeds=1.0                            # copies of the training sets at these speeds, such as "0.9 1.0 1.1"
features=dump                         # dump: stage 1 writes them; online: they are computed while training
vocab_size=128                        # word pieces, at most
tokenizer=                            # bpe.model to use in place of stage 2's

lm=none                               # language model of decoding: none, ngram or transformer
lm_text=                              # for --lm, beside the transcripts: Kaldi text files FILE,FILE,...
lm_lines=                             # for --lm as well: plain text, a sentence a line, of no dev or test: FILE,FILE,...
lm_args=                              # more arguments for w2vbert ngram or w2vbert lm, such as "--order 3"
lm_tag=                               # the language model is exp/lm_<lm_tag>; empty: the value of --lm

tag=base                              # the fine-tuned model is exp/asr_<tag>
pretrain_tag=base                     # the pre-trained model is exp/pretrain_<tag>
pretrain_config=conf/pretrain.yaml    # configuration of stage 3
finetune_config=conf/finetune.yaml    # configuration of stage 4
pretrain_init=                        # experiment or model that pre-training goes on from, on this audio
init=                                 # experiment or model to fine-tune from, in place of stage 3's
seed=                                 # seed of both trainings, in place of the configurations'
pretrain_args=                        # more arguments for w2vbert pretrain, such as "--max-steps 100"
finetune_args=                        # more arguments for w2vbert finetune
ngpu=1                                # processes of a training on this machine, one a GPU
num_nodes=1                           # machines of a training
node_rank=0                           # number of this machine
master=localhost:29500                # host:port of machine 0

num_average=5                         # checkpoints to average
decode_config=                        # configuration of decoding
search=                               # greedy or beam, in place of the recipe's: decodes to decode_<search>
beam_size=                            # hypotheses kept, in place of the recipe's
decode_tag=                           # decodes to decode_<tag>, whatever the search
