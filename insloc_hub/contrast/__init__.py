"""The learning signal: a momentum twin, a queue of past keys, InfoNCE (paper.md A.2)."""
