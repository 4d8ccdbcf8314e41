"""Copy and paste: the composites that InsLoc learns from (paper.md A.1)."""
