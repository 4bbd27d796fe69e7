#!/usr/bin/env bash
# Three CRaFT steps from YAML, a check printed for every part: bash scripts/train_craft_hidden_dryrun.sh [--key value]
set -euo pipefail
source "$(dirname "$0")/env.sh" all
export OMP_NUM_THREADS=1
exec accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no --cpu \
    -m craft_trainer dryrun --config configs/train/dryrun.yaml "$@"
