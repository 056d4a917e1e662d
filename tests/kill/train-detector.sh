#!/usr/bin/env bash
# train-detector.sh BIN [TRIALS]: as train.sh, of a detector.
exec "$(dirname "$0")/train.sh" "$1" "${2:-50}" detector
