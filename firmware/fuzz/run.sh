#!/usr/bin/env bash
# Builds the fuzz targets and runs them, beginning with their seeds.
# usage: run.sh                      every target for so many inputs, found the same way each time
#        run.sh TARGET [OPTION…]     one target until it finds something, with libFuzzer's options
#                                    (-max_total_time=3600 -fork=2 …); the corpus is kept for the next time
#        run.sh TARGET INPUT         one target with one input: what was found before
set -euo pipefail

# Inputs for each target: a few seconds' worth.
exec "$(dirname "$0")/../../tests/fuzz.sh" sublet-firmware-fuzz firmware_seeds \
    firmware_disk:20000 firmware_grub:2000 firmware_menus:30000 firmware_unified:50000 firmware_kernel:50000 \
    firmware_machine:50000 -- "$@"
