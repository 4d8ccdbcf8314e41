"""Pixels and boxes -> unit vectors: trunks from timm, region encoders, projections."""
