"""The parts of benchmarks/serving.py: who competes, what starts and stops them, what loads them, what is said of it."""
