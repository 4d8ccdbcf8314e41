"""The fine-tuning transfer: a detector from a pretrained trunk, its data, its training, its scores."""
