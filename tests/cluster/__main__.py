"""Run many seeds of the founding: `python -m tests.cluster 5000`; from another seed on: `... 5000 100000`."""

from __future__ import annotations

import sys
import time

from tests.cluster.formation_world import failure

count, first = [*map(int, sys.argv[1:]), 0][:2] if sys.argv[1:] else (1000, 0)
begin_s = time.monotonic()
failures = 0
for seed in range(first, first + count):
    why = failure(seed)
    if why is not None:
        failures += 1
        print(f"seed {seed} fails: {why}", flush=True)
took_s = time.monotonic() - begin_s
print(f"{count} seeds, {failures} failures, {took_s:.0f} s, {count / took_s:.0f} seeds a second")
sys.exit(failures > 0)
