#!/bin/bash
# Four workers, one a node: `sbatch slurm.sh`. After a failure the job is queued again, and goes on
# from the last checkpoint.
#SBATCH --job-name=kerasllm
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail

srun --kill-on-bad-exit=1 kerasllm train bert_base train.csv run \
  --validation dev.csv \
  --strategy multi_worker_mirrored \
  --cluster slurm \
  --backup backup ||
  scontrol requeue "$SLURM_JOB_ID"
