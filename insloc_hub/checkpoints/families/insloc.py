"""The released InsLoc training code's own names, FPN and C4, query and key encoder in one file (paper.md A.3, A.6).

C4 keeps the last stage in the RoI head. Its names outside of trunk and stage are inferred; nothing depends on them.
"""

from insloc_hub.checkpoints.names import SELF_SUPERVISED, Layout

TWIN = (("backbone.", "backbone_k."), ("neck.", "neck_k."), ("roi_head.", "roi_head_k."))
DROPS = (
    (r"(backbone|neck|roi_head)_k\..*", "momentum twin"),
    (r"(backbone|neck|roi_head)\..*", "query encoder"),  # left over only where the key encoder is asked for
    (r"queues?|queue_ptr", "queue"),
)
PROJECTION = (r"roi_head(_k)?\.bbox_head\.fc_cls\..*", "projection head")

FPN = Layout(
    name="InsLoc-FPN",
    starts=(("neck.", "neck."), ("head.", "roi_head.bbox_head."), ("", "backbone.")),
    twin=TWIN,
    mark=r"backbone_k\.layer4\.|neck_k\.",
    drops=(PROJECTION, *DROPS),
    convention=SELF_SUPERVISED,
)
C4 = Layout(
    name="InsLoc-C4",
    starts=(("neck.", None), ("head.", None), ("layer4.", "roi_head.shared_head.layer4."), ("", "backbone.")),
    twin=TWIN,
    mark=r"backbone_k\.|roi_head_k\.",
    drops=(PROJECTION, (r"roi_head(_k)?\.bbox_head\.shared_fcs\..*", "projection head"), *DROPS),
    convention=SELF_SUPERVISED,
)
