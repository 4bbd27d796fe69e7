#!/usr/bin/env bash
# The whole story on one machine: bash scripts/demo.sh [--quick] [--old a,b --new c --seeds 0,1,2 --output DIR]
set -euo pipefail
source "$(dirname "$0")/env.sh" all
exec python -m craft_trainer demo "$@"
