#!/usr/bin/env bash
# Set up and run the tests on all cores: bash scripts/test.sh [--quick] [pytest arguments]
# --quick runs one file of every folder; -n 0 runs one test at a time, in one process.
set -euo pipefail
source "$(dirname "$0")/env.sh" all,dev
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
echo "Left out unless asked for: -m full_size (policies at their real size: gigabytes), -m walk (journeys of minutes)."
echo "What else is skipped, and why, stands at the end. For a first look in minutes, give --quick."
exec python -m pytest --durations=5 -n auto --dist loadfile "$@"
