"""Protocols that read classes out of whole-image features. Their constants, with sources (field.md is docs/notes/field.md)."""

from dataclasses import dataclass

from insloc_eval.protocols.record import Protocol, ReadOut


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear(ReadOut):
    """Whole-image features against class labels."""

    top: int = 5
    """The second metric: the label is among this many best classes."""


LINEAR_LOGISTIC = Linear(
    family="linear",
    name="logistic",
    version=1,
    about="classes from pooled features: top-1 and top-5 on labelled images",
    sources=("docs/evaluate.md", "Kornblith, Shlens, Le 2019 (arXiv:1805.08974): L2 chosen on held-out training images"),
    primary="top1",
    needs_labels=True,
    needs_training=True,
    floor_points=None,
    ran="smoke: the procedural world of `insloc demo`",
)

RECORDS: tuple[Protocol, ...] = (LINEAR_LOGISTIC,)
