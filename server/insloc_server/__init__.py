"""Serve pooled, dense and per-box features of a backbone over HTTP."""

from insloc_hub import __version__ as __version__
