"""Judge any timm model on frozen features: tasks, records, intervals, reports."""

from insloc_hub import __version__ as __version__
