"""detectron2's names: prefix-free, in a C4 detector, in an FPN detector (compat.md 5.1, 5.5, 5.8).

The authors' converted InsLoc files are of the last two kinds; their FPN file keeps one fc under its training name. SoCo's
pickles are prefix-free with pyramid and head. Prefix-free names fit any detector of detectron2's by its suffix rule.
"""

from insloc_hub.checkpoints.names import SECOND_FC, Convention, Layout, Rows

LEFTOVER_FC = "roi_head.bbox_head.shared_fcs.1."
UNKNOWN = Convention(
    order="unknown",
    mean_std="unknown",
    stride_in="unknown",
    why="detectron2's own models take BGR, std 1, stride in the 1x1; converted ones mostly RGB, ImageNet, 3x3; names are equal",
)
BLOCK: Rows = (
    (".bn1.", ".conv1.norm."),
    (".bn2.", ".conv2.norm."),
    (".bn3.", ".conv3.norm."),
    (".downsample.0.", ".shortcut."),
    (".downsample.1.", ".shortcut.norm."),
)
DROPS = (
    (r"(proposal_generator|roi_heads\.mask_head|roi_heads\.mask_on)\..*", "RPN and mask head"),
    (r"(roi_heads\.)?box_predictor\..*", "box predictors"),
    (r"(roi_heads\.)?box_head\.fc_extra_norm\..*", "extra norm of fine-tuning"),
    (r"(backbone\.)?fpn_(lateral|output)\d\..*|(roi_heads\.)?box_head\..*", "neck or box head of another kind"),
    (r"roi_head\.bbox_head\..*", "leftovers of the training head"),
    (r"stem\.fc\..*", "projection head"),
    (r"pixel_(mean|std)|anchor_generator\..*|proposal_generator\..*", "detector constants"),
)


def trunk(prefix: str, res5: str) -> Rows:
    """Stem and stages; `res5` stands before the last stage, which a C4 detector keeps in its heads."""
    return (
        ("conv1.", f"{prefix}stem.conv1."),
        ("bn1.", f"{prefix}stem.conv1.norm."),
        ("layer1.", f"{prefix}res2."),
        ("layer2.", f"{prefix}res3."),
        ("layer3.", f"{prefix}res4."),
        ("layer4.", f"{res5}res5."),
    )


def pyramid(neck: str, head: str) -> Rows:
    """Levels are counted 2..5 here, 0..3 in ours; convs of the head 1..4 and 0..3."""
    rows: list[tuple[str, str | None]] = []
    for i in range(4):
        rows += [
            (f"neck.lateral_convs.{i}.conv.", f"{neck}fpn_lateral{i + 2}."),
            (f"neck.lateral_convs.{i}.bn.", f"{neck}fpn_lateral{i + 2}.norm."),
            (f"neck.fpn_convs.{i}.conv.", f"{neck}fpn_output{i + 2}."),
            (f"neck.fpn_convs.{i}.bn.", f"{neck}fpn_output{i + 2}.norm."),
            (f"head.shared_convs.{i}.conv.", f"{head}box_head.conv{i + 1}."),
            (f"head.shared_convs.{i}.bn.", f"{head}box_head.conv{i + 1}.norm."),
        ]
    return (*rows, ("head.shared_fcs.0.", f"{head}box_head.fc1."))


FPN = Layout(
    name="detectron2 FPN",
    starts=(
        *pyramid("backbone.", "roi_heads."),
        (SECOND_FC, LEFTOVER_FC),
        *trunk("backbone.bottom_up.", "backbone.bottom_up."),
    ),
    inside=BLOCK,
    drops=DROPS,
    convention=UNKNOWN,
)
C4 = Layout(name="detectron2 C4", starts=trunk("backbone.", "roi_heads."), inside=BLOCK, drops=DROPS, convention=UNKNOWN)
BARE = Layout(
    name="detectron2",
    starts=(*pyramid("", ""), (SECOND_FC, LEFTOVER_FC), *trunk("", "")),
    inside=BLOCK,
    drops=DROPS,
    convention=UNKNOWN,
)
