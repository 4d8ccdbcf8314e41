"""The parts of benchmarks/reference_run.py: what is planned, what trains, what judges, what is said of it."""
