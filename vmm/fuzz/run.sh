#!/usr/bin/env bash
# Builds the fuzz targets and runs them, beginning with their seeds.
# usage: run.sh                      every target for so many inputs, found the same way each time
#        run.sh TARGET [OPTION…]     one target until it finds something, with libFuzzer's options
#                                    (-max_total_time=3600 -fork=2 …); the corpus is kept for the next time
#        run.sh TARGET INPUT         one target with one input: what was found before
set -euo pipefail

# Inputs for each target: a few seconds' worth.
exec "$(dirname "$0")/../../tests/fuzz.sh" sublet-vmm-fuzz seeds \
    bus:30000 virtio_transport:30000 virtio_block:20000 virtio_rng:30000 virtio_port:10000 \
    control_socket:30000 console_ring:50000 boot:30000 guest_frames:200000 -- "$@"
