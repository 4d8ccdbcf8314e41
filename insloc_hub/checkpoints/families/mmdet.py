"""mmdetection 2 and 3 (compat.md 5.6): a backbone, an FPN detector with norms and Shared4Conv1FC head, a C4 detector.

Backbone files of mmselfsup and mmpretrain are the first alone.
"""

from insloc_hub.checkpoints.names import Convention, Layout

STYLE = Convention(
    order="unknown",
    mean_std="unknown",
    stride_in="unknown",
    why="style='pytorch' (RGB, ImageNet, 3x3) and style='caffe' (BGR, std 1, 1x1) have the same names and shapes",
)
DROPS = (
    (r"(rpn_head|roi_head\.mask_head)\..*", "RPN and mask head"),
    (r"roi_head\.bbox_head\.fc_(cls|reg)\..*", "box predictors"),
    (r"ema_.*|data_preprocessor\..*", "training state"),
    (r"(neck|roi_head\.bbox_head\.shared_(conv|fc)s)\..*", "neck or box head of another kind"),
)

FPN = Layout(
    name="mmdet",
    starts=(("neck.", "neck."), ("head.", "roi_head.bbox_head."), ("", "backbone.")),
    drops=((r"head\..*", "classifier"), *DROPS),
    convention=STYLE,
)
C4 = Layout(
    name="mmdet C4",
    starts=(("neck.", None), ("head.", None), ("layer4.", "roi_head.shared_head.layer4."), ("", "backbone.")),
    drops=DROPS,
    convention=STYLE,
)
