"""Protocols that read classes out of whole-image features. Their constants, with sources (field.md is docs/notes/field.md)."""

from dataclasses import dataclass

from insloc_eval.protocols.record import Protocol, ReadOut


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear(ReadOut):
    """Whole-image features against class labels."""

    top: int = 5
    """The second metric: the label is among this many best classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep(Protocol):
    """Frozen features, standardised with training statistics; many heads by SGD, one of them chosen on training rows."""

    transform: str = "whole"
    poolings: tuple[str, ...] = ("model", "max")
    """The model's own whole-image vector; the maximum of its last map."""
    learning_rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """For 256 rows a step, scaled with their number."""
    weight_decays: tuple[float, ...] = (0.0, 5e-4, 5e-3)
    momentum: float = 0.9
    batch: int = 1024
    rows_seen: int = 1_280_000
    """In all, whatever the number of devices."""
    most_epochs: int = 100
    """Small sets are not seen more often than this."""
    checks: int = 10
    """Moments, evenly spaced, at which a head can be chosen."""
    held_out: float = 0.1
    """Share of the training images, per class, that chooses; no head learns from them."""
    top: int = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Moco(Protocol):
    """MoCo's linear classification: one head on augmented images, so nothing is cached."""

    learning_rate: float = 30.0
    batch: int = 256
    momentum: float = 0.9
    weight_decay: float = 0.0
    epochs: int = 100
    drops: tuple[int, ...] = (60, 80)
    """Epochs at which the learning rate falls to a tenth."""
    init_std: float = 0.01
    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    resize: float = 256 / 224
    """Short side of a test image over the side of its centre crop."""
    top: int = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Knn(Protocol):
    """The k nearest training images vote, each with exp(cosine / temperature)."""

    transform: str = "whole"
    k: tuple[int, ...] = (20, 10, 100, 200)
    """The first is the result; the others stand beside."""
    temperature: float = 0.07
    normalise: str = "L2"
    top: int = 5


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
    ran="smoke: 10,000 + 4,000 images of tiny-imagenet (docs/real-run.md)",
)

LINEAR_SWEEP = Sweep(
    family="linear",
    name="sweep",
    version=1,
    about="classes from pooled features: 48 heads by SGD, chosen on held-out training images; best-on-val beside",
    sources=(
        "docs/notes/field.md 2.1: DINOv2's heads in one pass (lr per 256, cosine to 0, 12,500 steps, wd 0), chosen as in "
        "CLIP_benchmark and DINOv3's logistic regression, on held-out training images",
        "[ours]: the grid (an lr for standardised features is larger; wd 5e-4 is VISSL's), max pooling for CNNs in place "
        "of DINOv2's blocks, batch 1,024 and 1.28 M rows",
    ),
    primary="top1",
    needs_labels=True,
    needs_training=True,
    floor_points=None,
    ran="smoke: 10,000 + 4,000 images of tiny-imagenet (docs/real-run.md)",
)

LINEAR_MOCO = Moco(
    family="linear",
    name="moco",
    version=1,
    about="MoCo's linear classification with augmentation, 100 epochs, lr 30: for a GPU, asked by its name only",
    sources=(
        "docs/notes/field.md 2.1, MoCo v1/v2 (facebookresearch/moco@132aea9, main_lincls.py)",
        "[ours]: 128 px for small images; the last epoch is the result, the best val epoch stands beside",
    ),
    primary="top1",
    needs_labels=True,
    needs_training=True,
    floor_points=None,
    large_input_px=224,
    by_family=False,
)

KNN_DINO = Knn(
    family="knn",
    name="dino",
    version=1,
    about="classes of the nearest training images: k 20, T .07, L2 norm, whole image",
    sources=(
        "docs/notes/field.md 2.2, DINO: k 10, 20, 100, 200, T .07, L2",
        "[ours]: the whole image in place of the 256 -> 224 centre crop, to share its features with linear/logistic",
    ),
    primary="top1",
    needs_labels=True,
    needs_training=True,
    floor_points=None,
    ran="smoke: 10,000 + 4,000 images of tiny-imagenet (docs/real-run.md)",
)

RECORDS: tuple[Protocol, ...] = (LINEAR_LOGISTIC, LINEAR_SWEEP, LINEAR_MOCO, KNN_DINO)
