"""One file per family of tensor names; the order in which they are tried is in checkpoints/layouts.py."""
