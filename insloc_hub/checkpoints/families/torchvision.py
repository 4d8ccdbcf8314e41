"""torchvision's names: the classifier, which are timm's too, and the Faster and Mask R-CNN with FPN (compat.md 5.3, 5.4).

The `_v2` detectors have norms in the pyramid and a 4conv1fc head, as InsLoc-FPN; of the older ones only the trunk fits.
"""

from insloc_hub.checkpoints.names import USUAL, Layout, Rows

CLASSIFIER = (r"(fc|head|classifier)\.(weight|bias)", "classifier")
BARE = Layout(
    name="torchvision or timm", starts=(("neck.", None), ("head.", None), ("", "")), drops=(CLASSIFIER,), convention=USUAL
)


def pyramid() -> Rows:
    """In a block, 0 is the conv and 1 its norm; number 4 of the box head is a Flatten, so its fc is 5."""
    rows: list[tuple[str, str | None]] = []
    for i in range(4):
        rows += [
            (f"neck.lateral_convs.{i}.conv.", f"backbone.fpn.inner_blocks.{i}.0."),
            (f"neck.lateral_convs.{i}.bn.", f"backbone.fpn.inner_blocks.{i}.1."),
            (f"neck.fpn_convs.{i}.conv.", f"backbone.fpn.layer_blocks.{i}.0."),
            (f"neck.fpn_convs.{i}.bn.", f"backbone.fpn.layer_blocks.{i}.1."),
            (f"head.shared_convs.{i}.conv.", f"roi_heads.box_head.{i}.0."),
            (f"head.shared_convs.{i}.bn.", f"roi_heads.box_head.{i}.1."),
        ]
    return (*rows, ("head.shared_fcs.0.", "roi_heads.box_head.5."), ("head.", None), ("neck.", None))


DETECTOR = Layout(
    name="torchvision detector",
    starts=(*pyramid(), ("", "backbone.body.")),
    drops=(
        (r"rpn\..*|roi_heads\.mask_.*", "RPN and mask head"),
        (r"roi_heads\.box_predictor\..*", "box predictors"),
        (r"backbone\.fpn\..*|roi_heads\.box_head\..*", "neck or box head of another kind"),
    ),
    convention=USUAL,
)
