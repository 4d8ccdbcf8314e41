"""Names that self-supervised training frameworks give: VISSL, and Lightning modules of solo-learn and lightly.

VISSL wraps a torchvision ResNet as `_feature_blocks` of a trunk. solo-learn's module keeps `backbone` (`encoder` before
its 1.0.4) and a `momentum_` twin. lightly's examples cut a torchvision ResNet into a numbered sequence of children.
"""

from insloc_hub.checkpoints.families.moco import NO_PYRAMID, TWIN_RULE
from insloc_hub.checkpoints.names import SELF_SUPERVISED, Layout

HEADS = (
    (
        r"(momentum_)?(projector|predictor|projection_head|prediction_head|prototypes|head)\d?(_momentum)?(\..*)?",
        "projection head",
    ),
    (r"((momentum_)?classifier|online_classifier|fc|linear)\..*", "classifier"),
    (r"(momentum_|\w*_momentum\.|teacher_).*", TWIN_RULE),
    (r"(queue\d?(_ptr)?|queue_.*|criterion\..*|loss\..*|memory_bank.*|.*\.memory_bank.*)", "queue"),
)
VISSL = Layout(
    name="VISSL",
    starts=(*NO_PYRAMID, ("", "trunk._feature_blocks.")),
    drops=((r"heads\..*", "projection head"),),
    convention=SELF_SUPERVISED,
)
VISSL_TRUNK = Layout(name="VISSL trunk", starts=(*NO_PYRAMID, ("", "_feature_blocks.")), convention=SELF_SUPERVISED)
SOLO = Layout(
    name="solo-learn",
    starts=(*NO_PYRAMID, ("", "backbone.")),
    twin=(("backbone.", "momentum_backbone."),),
    mark=r"(momentum_backbone|projector|classifier)\.",
    drops=(*HEADS, (r"backbone\.fc\..*", "classifier"), (r"backbone\..*", "query encoder")),
    convention=SELF_SUPERVISED,
)
SOLO_OLD = Layout(
    name="solo-learn (before 1.0.4)",
    starts=(*NO_PYRAMID, ("", "encoder.")),
    twin=(("encoder.", "momentum_encoder."),),
    mark=r"(momentum_encoder|projector|classifier)\.",
    drops=(*HEADS, (r"encoder\.fc\..*", "classifier"), (r"encoder\..*", "query encoder")),
    convention=SELF_SUPERVISED,
)
LIGHTLY = Layout(
    name="lightly",
    starts=(
        *NO_PYRAMID,
        ("conv1.", "backbone.0."),
        ("bn1.", "backbone.1."),
        ("layer1.", "backbone.4."),
        ("layer2.", "backbone.5."),
        ("layer3.", "backbone.6."),
        ("layer4.", "backbone.7."),
    ),
    twin=(("backbone.", "backbone_momentum."),),
    drops=(*HEADS, (r"backbone\..*", "query encoder")),
    convention=SELF_SUPERVISED,
)
