"""The parts of benchmarks: each returns rows, and whether its targets are met."""
