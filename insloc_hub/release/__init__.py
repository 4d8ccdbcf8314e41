"""Weights out: folders that plain timm reads."""
