"""Rectangles: pixels, x1 y1 x2 y2, edge coordinates (x2 - x1 is the width)."""
