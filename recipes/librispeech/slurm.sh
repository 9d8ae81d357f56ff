#!/usr/bin/env bash
# One training of this recipe on several machines under SLURM, from here, with run.sh's own options behind it:
#
#   sbatch --nodes 8 --gpus-per-node 8 slurm.sh --stage 3 --stop-stage 3 --size xl --librilight /data/librilight
#
# Five minutes before the time limit, or when the job is preempted, the training saves its state and leaves; the job then
# puts itself back into the queue and goes on from there.
#SBATCH --job-name=w2vbert
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this with sbatch}"

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
master=${nodes%%$'\n'*}:${MASTER_PORT:-29500}
ngpu=${SLURM_GPUS_ON_NODE:-$(nvidia-smi --list-gpus | wc -l)}

asked=0
# shellcheck disable=SC2317 # a trap calls it
leave() { # the steps are told, not this script; run.sh passes it on to torchrun, and that to the ranks
  asked=1
  scancel --signal=TERM "$SLURM_JOB_ID"
}
trap leave USR1 TERM

# SLURM_NODEID is another number in each task; there the words behind "run" are run.sh's options.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=0 bash -c \
  'exec ./run.sh --num-nodes "$1" --node-rank "$SLURM_NODEID" --master "$2" --ngpu "$3" "${@:4}"' \
  run "$SLURM_JOB_NUM_NODES" "$master" "$ngpu" "$@" &
step=$!
code=0
wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do # a signal ends a wait, not the step
  code=0
  wait "$step" || code=$?
done

if ((asked && code)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
