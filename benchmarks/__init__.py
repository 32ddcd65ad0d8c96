"""What pose_lab costs, measured: `python -m benchmarks` prints one table, `python -m benchmarks.bench_WHAT` a part."""
