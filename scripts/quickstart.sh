#!/usr/bin/env bash
# Sets everything up and runs the main job: trains BiFormer-nano on the embedded digits, tests it, infers images, and
# leaves pictures in work_dirs/quickstart. Arguments go to `visionsparse train` (such as --cfg-options KEY=VALUE).
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh .venv .

config=biformer/biformer_nano_digits
out=work_dirs/quickstart
visionsparse train "$config" --work-dir "$out" "$@"
checkpoint="$out/$(cat "$out/last_checkpoint")"
visionsparse test "$config" "$checkpoint" --out "$out/results.json"
visionsparse infer "$config" data/digits/val/3/1460.png --checkpoint "$checkpoint" --json "$out/prediction.json"
visionsparse infer "$config" 'data/digits/val/*/14[56]?.png' --checkpoint "$checkpoint" --out "$out/pictures"
visionsparse plot-curves "$out" --out "$out/curves.png"
echo
echo "Look at $out/curves.png, $out/pictures/predictions.png and $out/results.json"
