"""The modules of a detector: torchvision's structure and names, with ours where paper.md C.1-C.3 ask for others."""
