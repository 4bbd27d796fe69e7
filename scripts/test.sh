#!/usr/bin/env bash
# Set up and run the tests on all cores: bash scripts/test.sh [--quick] [pytest arguments]
# --quick runs one file of every folder; -n 0 runs one test at a time, in one process.
set -euo pipefail
source "$(dirname "$0")/env.sh" all,dev
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
unset PYTHONDONTWRITEBYTECODE # every command of a test would compile the package anew
took=.venv/.took-$(printf %s "$*" | tr -c '[:alnum:]' _) # seconds of the same tests, the last time
if [ -f "$took" ]; then
    echo "The last time, this took $((($(cat "$took") + 59) / 60)) minutes here."
elif [ "$*" = --quick ]; then
    echo "One file of every folder: 2 minutes on two cores."
else
    echo "How long this takes here is said from the second time on. For a first look in 2 minutes, give --quick."
fi
echo "Left out unless asked for: -m full_size (policies at their real size: gigabytes), -m walk (journeys of minutes)."
echo "What else is skipped, and why, stands at the end."
status=0
python -m pytest --durations=5 -n auto --dist loadfile "$@" || status=$?
if [ "$status" -le 1 ]; then echo "$SECONDS" >"$took"; fi # it ran to its end
exit "$status"
