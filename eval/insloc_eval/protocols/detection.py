"""Protocols that fine-tune a detector: every number of paper.md C.1-C.4 and of ours, with its source. Torch-free.

What is initialised, and the extra norm of A.7, are fields: two arms that differ there are two protocols by their hash.
"d2" is detectron2 at f50ec07, whose defaults C takes where it names none; "[ours]" has no published counterpart.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from insloc_eval.protocols.record import Protocol
from insloc_hub.errors import InslocError

INIT_PARTS = ("trunk", "trunk+fpn", "trunk+fpn+head")
SCALED = "+scaled"
GAINS = (("trunk", False), ("trunk+fpn", False), ("trunk+fpn+head", False), ("trunk+fpn+head", True))
"""What is initialised, and whether the extra norm is there, in the arms that split a published-style gain (A.7)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection(Protocol):
    """One detector, its training and its scoring. Lengths in pixels of the network input; IoU and shares in 0..1."""

    needs_boxes: ClassVar[bool] = True
    needs_detections: ClassVar[bool] = True
    variant: str
    """c4: RoIAlign 14 on stride 16, then the last stage; fpn: P2..P6 for proposals, P2..P5 for regions, a 4conv1fc head."""
    mask: bool
    """Whether masks are learnt and scored too (Mask R-CNN)."""
    extra_norm: bool
    """c4: the BN after the last stage (C.1: on). fpn: one more norm after the fc's ReLU (A.7: only where every arm has it)."""
    init_parts: str = "trunk"
    """What is loaded from pretraining, one of INIT_PARTS; the rest starts anew."""
    train_short_px: tuple[int, ...]
    """The shorter side is drawn from these for each training image."""
    test_short_px: int
    longest_px: int = 1333  # C common
    """The longer side is at most this, aspect kept."""
    flip: float = 0.5  # C common
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)  # C.1; C.3: one for each of P2..P6
    """Side of the square anchor: all at stride 16 (c4), or one a level from P2 on (fpn)."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # C common
    """Height over width."""
    rpn_pre_train: int
    """Proposals before NMS in training: of the image (c4), of each level (fpn)."""
    rpn_post_train: int
    """After NMS, of the image."""
    rpn_pre_test: int
    rpn_post_test: int
    rpn_batch: int = 256  # C common
    """Anchors an image in the proposal loss."""
    rpn_positive: float = 0.5  # C common
    rpn_nms: float = 0.7  # C common
    rpn_high: float = 0.7  # C common
    """An anchor with at least this IoU is positive, and the best of each object."""
    rpn_low: float = 0.3  # C common
    """An anchor with less is negative."""
    roi_batch: int = 512  # C common
    """Regions an image in the head's loss."""
    roi_positive: float = 0.25  # C common
    roi_iou: float = 0.5  # C common
    """A region with at least this IoU is the object's."""
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)  # C common
    score_floor: float = 0.05  # C common
    test_nms: float = 0.5  # C common
    most_detections: int = 100  # C common
    batch: int = 16  # C common: 8 GPUs x 2
    lr: float = 0.02  # C common, for `batch`
    momentum: float = 0.9  # C common, no Nesterov
    weight_decay: float = 1e-4  # C common
    norm_decay: float = 0.0  # C common: weight decay of the norms
    steps: int
    lr_drops: tuple[int, ...]
    """Steps at which the rate is divided by ten."""
    warmup_steps: int = 1000  # C common
    warmup_start: float = 0.001  # C common
    """Share of the rate at step 0; linear from there."""
    precise_bn_batches: int = 200  # C common
    """Training batches that the norms' statistics are averaged over after the last step."""
    metric: str
    """coco: mean over IoU .50:.05:.95 of 101-point AP (pycocotools); voc: of 11-point AP (C.1)."""
    train_share: float = 1.0
    """The first share of the training images by id (C.4): nested, without a seed."""
    mosaic: int = 0
    """0: pictures as they are annotated. 3: each image alone, and once as a tile of a mosaic of 3 x 3."""
    scaled: bool = False
    """Whether --batch-size or --steps changed the schedule."""

    def __post_init__(self) -> None:
        """ValueError: a value that no detector has."""
        # explicit super: dataclass(slots=True) makes a new class, whose zero-argument super would look for the old one
        Protocol.__post_init__(self)
        for name, value, allowed in (
            ("variant", self.variant, ("c4", "fpn")),
            ("init_parts", self.init_parts, INIT_PARTS),
            ("metric", self.metric, ("coco", "voc")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")

    @property
    def title(self) -> str:
        """family/name@version, and +scaled where the schedule is another than the protocol's."""
        return f"{self.family}/{self.name}@{self.version}{SCALED if self.scaled else ''}"

    def input_px(self, median_short_px: float) -> int:
        """The shorter side at the test, whatever the images' size."""
        return self.test_short_px


def adapted(
    protocol: Detection,
    *,
    init_parts: str | None = None,
    extra_norm: bool | None = None,
    batch: int | None = None,
    steps: int | None = None,
) -> Detection:
    """The protocol as a user asks for it. InslocError: parts that this variant has not, or a batch or steps below 1.

    `batch` scales the rate in proportion (Goyal et al. 2017) and leaves the steps; `steps` scales drops and warm-up.
    No more batches than steps give the norms' statistics: a short try must not spend its time there.

    >>> half = adapted(QUICK, batch=2, steps=75)
    >>> half.title, half.lr / QUICK.lr, half.lr_drops, half.warmup_steps
    ('detection/quick@1+scaled', 0.5, (55, 70), 15)
    """
    for option, number in (("--batch-size", batch), ("--steps", steps)):
        if number is not None and number < 1:
            raise InslocError(f"{option} {number}: must be at least 1")
    if init_parts is not None and init_parts not in INIT_PARTS:
        raise InslocError(f"unknown --init-parts {init_parts!r}; there are {', '.join(INIT_PARTS)}")
    if protocol.variant == "c4" and init_parts not in (None, "trunk"):
        raise InslocError(f"--init-parts {init_parts}: {protocol.title} has no FPN; a C4 detector starts from the trunk only")
    made = replace(
        protocol,
        init_parts=protocol.init_parts if init_parts is None else init_parts,
        extra_norm=protocol.extra_norm if extra_norm is None else extra_norm,
    )
    if batch not in (None, made.batch):
        made = replace(made, batch=batch, lr=made.lr * batch / made.batch, scaled=True)
    if steps not in (None, made.steps):
        ratio = steps / made.steps
        drops = tuple(max(1, round(drop * ratio)) for drop in made.lr_drops)
        batches = min(made.precise_bn_batches, steps)
        warmup = round(made.warmup_steps * ratio)
        made = replace(made, steps=steps, lr_drops=drops, warmup_steps=warmup, precise_bn_batches=batches, scaled=True)
    return made


C_COMMON = "docs/notes/paper.md C, common to all (detectron2 f50ec07 where it says no more)"

VOC_C4_24K = Detection(
    family="detection",
    name="voc-c4-24k",
    version=1,
    about="PASCAL VOC 07+12 trainval -> 07 test, Faster R-CNN C4, 24k steps",
    sources=("docs/notes/paper.md C.1", C_COMMON),
    primary="AP",
    needs_labels=False,
    needs_training=True,
    floor_points=None,
    ran="never",
    by_family=False,
    variant="c4",
    mask=False,
    extra_norm=True,  # C.1: res5.norm
    train_short_px=tuple(range(480, 801, 32)),  # C.1
    test_short_px=800,
    rpn_pre_train=12_000,  # C.1
    rpn_post_train=2_000,
    rpn_pre_test=6_000,
    rpn_post_test=1_000,
    steps=24_000,
    lr_drops=(18_000, 22_000),
    warmup_steps=100,  # C.1
    metric="voc",
)

COCO_C4_1X = replace(
    VOC_C4_24K,
    name="coco-c4-1x",
    about="COCO train2017 -> val2017, Mask R-CNN C4, 90k steps",
    sources=("docs/notes/paper.md C.2", C_COMMON),
    mask=True,
    train_short_px=tuple(range(640, 801, 32)),  # C.2
    steps=90_000,
    lr_drops=(60_000, 80_000),
    warmup_steps=1_000,
    metric="coco",
)

COCO_C4_2X = replace(
    COCO_C4_1X,
    name="coco-c4-2x",
    about="the same, 180k steps",
    steps=180_000,
    lr_drops=(120_000, 160_000),
)

COCO_FPN_1X = replace(
    COCO_C4_1X,
    name="coco-fpn-1x",
    about="COCO train2017 -> val2017, Mask R-CNN FPN with norms and a 4conv1fc head, 90k steps",
    sources=("docs/notes/paper.md C.3", C_COMMON),
    variant="fpn",
    extra_norm=False,  # A.7: in InsLoc's rows only, so not by default
    rpn_pre_train=2_000,  # C.3, per level
    rpn_post_train=1_000,
    rpn_pre_test=1_000,
    rpn_post_test=1_000,
)

COCO_FPN_2X = replace(
    COCO_FPN_1X,
    name="coco-fpn-2x",
    about="the same, 180k steps",
    steps=180_000,
    lr_drops=(120_000, 160_000),
)


def _coco_low(percent: int, steps: int, drops: tuple[int, ...], warmup: int) -> Detection:
    return replace(
        COCO_FPN_1X,
        name=f"coco-low-{percent}",
        about=f"the same detector on the first {percent} % of train2017 by id, {steps:,} steps",
        sources=("docs/notes/paper.md C.4" + (", steps and warm-up ours" if percent < 5 else ""), C_COMMON),
        steps=steps,
        lr_drops=drops,
        warmup_steps=warmup,
        train_share=percent / 100,
    )


COCO_LOW = (
    _coco_low(1, 1_800, (1_300, 1_600), 500),
    _coco_low(2, 3_000, (2_200, 2_700), 500),
    _coco_low(5, 5_500, (4_000, 5_000), 1_000),
    _coco_low(10, 10_000, (7_000, 9_000), 1_000),
)


def _tin_low(percent: int, steps: int) -> Detection:
    """[ours]: about 32, 13 and 4 visits a picture; drops at 70 and 90 % as coco-low-10."""
    return replace(
        COCO_FPN_1X,
        name=f"tin-low-{percent}",
        about=f"{percent} % of tiny-imagenet's boxes, images alone and in 3x3 mosaics, Faster R-CNN FPN, {steps:,} steps",
        sources=("[ours], detector of docs/notes/paper.md C.3", C_COMMON),
        mask=False,
        train_short_px=(128, 160, 192),
        test_short_px=160,
        longest_px=256,
        anchor_sizes=(16, 32, 64, 128, 256),
        rpn_pre_train=500,
        rpn_post_train=250,
        rpn_pre_test=250,
        rpn_post_test=250,
        roi_batch=128,
        steps=steps,
        lr_drops=(steps * 7 // 10, steps * 9 // 10),
        warmup_steps=min(500, steps // 4),
        precise_bn_batches=50,
        train_share=percent / 100,
        mosaic=3,
    )


TIN_LOW = (_tin_low(1, 500), _tin_low(10, 2_000), _tin_low(100, 6_000))

QUICK = replace(
    COCO_FPN_1X,
    name="quick",
    ran="full: BCCD, one run an arm (docs/real-run.md)",
    about="any boxes, Faster R-CNN FPN at 320 px for 600 image visits: minutes on a CPU, for seeing that it learns",
    sources=("[ours], detector of docs/notes/paper.md C.3", C_COMMON),
    by_family=True,
    mask=False,
    train_short_px=(320,),
    test_short_px=320,
    longest_px=533,
    anchor_sizes=(16, 32, 64, 128, 256),
    rpn_pre_train=400,
    rpn_post_train=200,
    rpn_pre_test=200,
    rpn_post_test=100,
    roi_batch=64,
    batch=4,
    lr=0.005,
    steps=150,
    lr_drops=(110, 140),
    warmup_steps=30,
    precise_bn_batches=25,
)

QUICK_MASK = replace(
    QUICK,
    name="quick-mask",
    ran="never",
    about="quick with masks (Mask R-CNN FPN), asked by its name only",
    mask=True,
    by_family=False,
)

QUICK_C4 = replace(
    QUICK,
    name="quick-c4",
    ran="never",
    about="quick as Faster R-CNN C4, asked by its name only",
    sources=("[ours], detector of docs/notes/paper.md C.1", C_COMMON),
    by_family=False,
    variant="c4",
    extra_norm=True,
)

QUICK_C4_MASK = replace(QUICK_C4, name="quick-c4-mask", about="quick-c4 with masks (Mask R-CNN C4)", mask=True)

RECORDS: tuple[Detection, ...] = (
    VOC_C4_24K,
    COCO_C4_1X,
    COCO_C4_2X,
    COCO_FPN_1X,
    COCO_FPN_2X,
    *COCO_LOW,
    *TIN_LOW,
    QUICK,
    QUICK_MASK,
    QUICK_C4,
    QUICK_C4_MASK,
)
