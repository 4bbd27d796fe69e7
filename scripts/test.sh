#!/usr/bin/env bash
# Set up and run the tests: bash scripts/test.sh [pytest arguments]
set -euo pipefail
source "$(dirname "$0")/env.sh" all,dev
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
exec python -m pytest "$@"
