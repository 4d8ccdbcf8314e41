"""MoCo v1 and v2 and what was built on them: DenseCL in training, SoCo's raw files (compat.md 5.2, 5.7).

The released DenseCL file has torchvision's names.
"""

from insloc_hub.checkpoints.names import SELF_SUPERVISED, Layout, Rows

QUEUE = (r"queue\d?(_ptr)?", "queue")
TWIN_RULE = "momentum twin"
NO_PYRAMID: Rows = (("neck.", None), ("head.", None))

MOCO = Layout(
    name="MoCo",
    starts=(*NO_PYRAMID, ("", "encoder_q.")),
    twin=(("encoder_q.", "encoder_k."),),
    drops=(
        (r"encoder_[qk]\.fc\..*", "projection head"),
        (r"encoder_k\..*", TWIN_RULE),
        (r"encoder_q\..*", "query encoder"),
        QUEUE,
    ),
    convention=SELF_SUPERVISED,
)
DENSECL = Layout(
    name="DenseCL (training)",
    starts=(*NO_PYRAMID, ("", "encoder_q.0.")),
    twin=(("encoder_q.0.", "encoder_k.0."),),
    drops=(
        (r"encoder_[qk]\.1\..*", "projection head"),
        (r"backbone\..*", "query encoder a second time"),
        (r"encoder_k\..*", TWIN_RULE),
        (r"encoder_q\..*", "query encoder"),
        QUEUE,
    ),
    convention=SELF_SUPERVISED,
)


def _soco_head() -> Rows:
    rows: list[tuple[str, str | None]] = []
    for i in range(4):
        rows += [(f"head.shared_convs.{i}.conv.", f"head.conv{i + 1}."), (f"head.shared_convs.{i}.bn.", f"head.bn{i + 1}.")]
    return (*rows, ("head.shared_fcs.0.", "head.fc1."), ("head.", None))


SOCO = Layout(
    name="SoCo",
    starts=(*_soco_head(), ("neck.", "neck."), ("", "encoder.")),
    twin=(("encoder.", "encoder_k."), ("neck.", "neck_k."), ("head.", "head_k.")),
    mark=r"encoder_k\.|neck\.lateral_convs\.",
    drops=(
        (r"(encoder|neck|head)_k\..*", TWIN_RULE),
        (r"(encoder|neck|head)\..*", "query encoder"),
        (r"(projector|predictor)(_k)?\..*", "projection head"),
    ),
    convention=SELF_SUPERVISED,
)
