"""The edge: a procedural world to learn from, and one story through every room. Only this room may import all others."""
