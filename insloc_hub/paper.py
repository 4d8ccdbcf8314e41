"""Every number of InsLoc's method, in one place, each with where it comes from.

Yang et al., CVPR 2021 (arXiv:2102.08318). "config KEY" is a key of the released FPN configuration
(insloc_fpn_200ep.py, limbo0000/InstanceLoc a419bb6); "code FILE" a released file where the number is hard-wired.
Sections such as A.1.1 are those of docs/notes/paper.md. Numbers of evaluation protocols live in insloc_eval/protocols/.
"""

CANVAS = 256  # code imagenet.py: backgrounds are resized to this, so it is the network input; A.1.2

# A.1.1 the crop; code copy_and_paste.py (the class argument `scale` is never used)
CROP_AREA = (0.2, 1.0)  # share of the source image
CROP_ASPECT = (0.5, 2.0)  # width / height, log-uniform
CROP_TRIES = 10

# A.1.1 the rescale; config "scale", whose upper end 255 is exclusive
FOREGROUND_BOUNDS = (128, 254)  # both included: bounds on the longer and the shorter side, not a size

# A.1.4 pixel augmentation after the paste; code pixel_aug_pil.py, MoCo v2's
JITTER_PROBABILITY = 0.8
JITTER_BRIGHTNESS = 0.4
JITTER_CONTRAST = 0.4
JITTER_SATURATION = 0.4
JITTER_HUE = 0.1  # of a full turn
GREY_PROBABILITY = 0.2
BLUR_PROBABILITY = 0.5
BLUR_SIGMA = (0.1, 2.0)  # pixels at a 256 px canvas

# A.1.5
FLIP_PROBABILITY = 0.5
PIXEL_MEAN = (0.485, 0.456, 0.406)  # config img_norm_cfg 123.675, 116.28, 103.53 over 255, RGB
PIXEL_STD = (0.229, 0.224, 0.225)  # config img_norm_cfg 58.395, 57.12, 57.375 over 255, RGB

# A.2 contrast; config momentum_cfg
QUEUE_KEYS = 65_536  # K
KEY_MOMENTUM = 0.999  # m
TEMPERATURE = 0.2  # T
EMBEDDING_DIM = 128

# A.4 box augmentation; config anchor generator and rpn_proposal
ANCHOR_STRIDE = 16  # pixels at a 256 px canvas
ANCHOR_SIZES = (32, 64, 128, 256)  # pixels at a 256 px canvas: scales 2, 4, 8, 16 of the stride
ANCHOR_RATIOS = (0.5, 0.75, 1.0, 1.5, 2.0)  # height / width
ANCHOR_IOU = 0.5  # strictly above
ANCHOR_NMS_IOU = 0.7  # suppressed if strictly above

# A.5 optimisation
BATCH = 256  # 8 GPUs x 32, docs/GETSTARTED.md
LEARNING_RATE = 0.03  # config optimizer.lr, for BATCH; scaled linearly
SGD_MOMENTUM = 0.9  # config optimizer.momentum, Nesterov
WEIGHT_DECAY = 1e-4  # config optimizer.weight_decay, on all query parameters, norms and biases too
EPOCHS = 200  # config total_epochs
BN_GROUP = 32  # images that share batch statistics: one GPU's share of the batch

# A.3 the FPN encoder; config backbone, neck, roi_head
FPN_STRIDES = (4, 8, 16, 32)  # P2..P5
FPN_CHANNELS = 256
FPN_ROI_SIZE = 7  # at every canvas
FPN_HEAD_CONVS = 4
FPN_HEAD_FC = 1024  # of each of the two hidden fully connected layers
FPN_LAST_STD = 0.01  # of the last fully connected layer's start
FPN_AUGMENT_LEVELS = (False, False, False, True)  # config box_replaced_with_gt: yes, yes, yes, no for P2..P5

# The control: MoCo v2 (Chen et al. 2020, arXiv:2003.04297), whose crops are 224 px where InsLoc's canvas is 256
MOCO_SIDE = 224
MOCO_CROP_AREA = (0.2, 1.0)  # share of the source image
MOCO_CROP_ASPECT = (3 / 4, 4 / 3)  # width / height, log-uniform; torchvision's RandomResizedCrop

# A.6 InsLoc-C4, as inferred: no configuration was released
C4_ROI_SIZE = 14  # at a 256 px canvas; detectron2's C4 pooler
C4_STRIDE = 16
