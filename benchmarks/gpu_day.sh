#!/bin/sh
# The measurements that need a GPU, in one command: benchmarks/gpu_day.sh [--dry] [--write docs/gpu.md]. See benchmarks/gpu_day.py.
cd "$(dirname "$0")/.." || exit 1
python=.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" -m benchmarks.gpu_day "$@"
