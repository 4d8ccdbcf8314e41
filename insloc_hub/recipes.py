"""Pretraining recipes by name: functions that return one frozen record with every choice of a run (recipe.py).

The ladder from MoCo v2 to InsLoc-C4 changes one thing at each rung, so that a gain has a cause:
moco_v2 -> paste_whole (composites) -> paste_box (RoIAlign on the box) -> insloc_c4 (box augmentation).
"""

import dataclasses
from collections.abc import Callable

from insloc_hub import paper
from insloc_hub.errors import UnknownName
from insloc_hub.recipe import Recipe, at_canvas

TINY_EPOCHS = 60  # of the r18_tiny family, until its tries say better


def insloc_c4_r50_200ep() -> Recipe:
    """The paper's ImageNet run with the C4 encoder, as inferred (paper.md A.6).

    `insloc pretrain --recipe insloc_c4_r50_200ep --data IMAGENET/train --out RUN`. Cost: not stated by the authors; about
    1.25 times MoCo v2's arithmetic per image (A.5). Expected with Mask R-CNN on COCO 1x / 2x: box AP 39.5 / 41.4, mask AP
    34.5 / 35.9 (the authors' model zoo, paper.md B).
    """
    return Recipe(name="insloc_c4_r50_200ep", arch="resnet50")


def insloc_c4_r50_400ep() -> Recipe:
    """As the 200-epoch run, twice as long: the authors released weights, no configuration (paper.md A.5, A.6).

    `insloc pretrain --recipe insloc_c4_r50_400ep --data IMAGENET/train --out RUN`. Expected with Mask R-CNN on COCO 1x / 2x:
    box AP 39.8 / 41.8, mask AP 34.7 / 36.3 (the authors' model zoo, paper.md B).
    """
    return dataclasses.replace(insloc_c4_r50_200ep(), name="insloc_c4_r50_400ep", epochs=400)


def insloc_fpn_r50_200ep() -> Recipe:
    """The released FPN configuration (paper.md A.1 to A.5): four levels, one loss each, augmented box on P5 only.

    `insloc pretrain --recipe insloc_fpn_r50_200ep --data IMAGENET/train --out RUN`. Cost: not stated; about 2.3 times MoCo
    v2's arithmetic per image (A.5). Expected with Mask R-CNN on COCO 1x / 2x: box AP 41.4 / 43.2, mask AP 37.1 / 38.7,
    where neck and head are loaded too (the authors' model zoo, paper.md A.7, B).
    """
    return _with_fpn(insloc_c4_r50_200ep(), "insloc_fpn_r50_200ep")


def insloc_fpn_r50_400ep() -> Recipe:
    """As the 200-epoch run, twice as long: the authors released weights, no configuration (paper.md A.5).

    `insloc pretrain --recipe insloc_fpn_r50_400ep --data IMAGENET/train --out RUN`. Expected with Mask R-CNN on COCO 1x / 2x:
    box AP 42.0 / 43.3, mask AP 37.6 / 38.8 (the authors' model zoo, paper.md B).
    """
    return dataclasses.replace(insloc_fpn_r50_200ep(), name="insloc_fpn_r50_400ep", epochs=400)


def moco_v2_r50_200ep() -> Recipe:
    """The control: MoCo v2 (He et al. 2020, Chen et al. 2020, arXiv:2003.04297) in the same loop, 224 px crops.

    `insloc pretrain --recipe moco_v2_r50_200ep --data IMAGENET/train --out RUN`. Cost elsewhere: 53 h on 8 V100 (MoCo's
    readme). Expected: linear top-1 67.5 (MoCo's readme); Mask R-CNN C4 on COCO 1x: box AP 38.9, mask AP 34.1 (paper.md B).
    Departure from its release: SGD with Nesterov momentum and the cosine by epoch, as in InsLoc's, so that only the
    views and the region differ.
    """
    return _as_moco(insloc_c4_r50_200ep(), "moco_v2_r50_200ep")


def insloc_c4_small() -> Recipe:
    """A first run on your own images: small trunk, small canvas, small batch; the default of `insloc pretrain`.

    `insloc pretrain --data DIR --arch resnet18 --out RUN`. All that depends on the canvas is scaled with it and the
    learning rate with the batch; queue and key momentum are small, as a run of a few thousand steps must not learn from
    stale keys. [ours]
    """
    batch = 32
    small = Recipe(
        name="insloc_c4_small",
        arch="resnet18",
        batch=batch,
        bn_groups=2,
        queue=4096,
        key_momentum=0.99,
        learning_rate=paper.LEARNING_RATE * batch / paper.BATCH,
        epochs=50,
    )
    return at_canvas(small, 128)


def insloc_c4_r18_tiny() -> Recipe:
    """The reference run's InsLoc-C4, as inferred: resnet18, 128 px canvases made of 64 px images (issue text, first values).

    `insloc pretrain --recipe insloc_c4_r18_tiny --data SHARDS --out RUN`. Cost and scores: docs/reference-run.md. [ours]
    """
    tiny = Recipe(
        name="insloc_c4_r18_tiny",
        arch="resnet18",
        batch=512,
        bn_groups=16,
        queue=8192,
        key_momentum=0.99,
        learning_rate=0.06,
        epochs=TINY_EPOCHS,
    )
    return at_canvas(tiny, 128)


def insloc_fpn_r18_tiny() -> Recipe:
    """The reference run's InsLoc-FPN: `insloc_c4_r18_tiny` with the released FPN encoder. [ours]

    `insloc pretrain --recipe insloc_fpn_r18_tiny --data SHARDS --out RUN`.
    """
    return _with_fpn(insloc_c4_r18_tiny(), "insloc_fpn_r18_tiny")


def paste_box_r18_tiny() -> Recipe:
    """The ladder's third rung: InsLoc-C4 without box augmentation, exact boxes for query and key. [ours]

    `insloc pretrain --recipe paste_box_r18_tiny --data SHARDS --out RUN`.
    """
    return dataclasses.replace(insloc_c4_r18_tiny(), name="paste_box_r18_tiny", augment_levels=(False,))


def paste_whole_r18_tiny() -> Recipe:
    """The ladder's second rung: MoCo v2 on composites, the mean over the whole canvas, boxes unread. [ours]

    `insloc pretrain --recipe paste_whole_r18_tiny --data SHARDS --out RUN`.
    """
    return dataclasses.replace(paste_box_r18_tiny(), name="paste_whole_r18_tiny", variant="whole")


def moco_v2_r18_tiny() -> Recipe:
    """The reference run's control and the ladder's first rung: MoCo v2, 112 px crops. [ours]

    `insloc pretrain --recipe moco_v2_r18_tiny --data SHARDS --out RUN`.
    """
    return _as_moco(insloc_c4_r18_tiny(), "moco_v2_r18_tiny")


def supervised_r18_tiny() -> Recipe:
    """The reference run's row with labels: the control's views, trunk and schedule, cross-entropy over class folders. [ours]

    `insloc pretrain --recipe supervised_r18_tiny --data SHARDS --out RUN`. The learning rate is torchvision's 0.1 for 256
    images, the weight decay ours.
    """
    return dataclasses.replace(moco_v2_r18_tiny(), name="supervised_r18_tiny", objective="labels", learning_rate=0.2)


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        insloc_c4_small,
        insloc_c4_r50_200ep,
        insloc_c4_r50_400ep,
        insloc_fpn_r50_200ep,
        insloc_fpn_r50_400ep,
        moco_v2_r50_200ep,
        insloc_c4_r18_tiny,
        insloc_fpn_r18_tiny,
        paste_box_r18_tiny,
        paste_whole_r18_tiny,
        moco_v2_r18_tiny,
        supervised_r18_tiny,
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`. UnknownName: with the nearest."""
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES, ", ".join(RECIPES))
    return RECIPES[name]()


def _with_fpn(recipe: Recipe, name: str) -> Recipe:
    levels = len(paper.FPN_STRIDES)
    return dataclasses.replace(
        recipe, name=name, variant="fpn", augment_levels=paper.FPN_AUGMENT_LEVELS, level_weights=(1.0,) * levels
    )


def _as_moco(recipe: Recipe, name: str) -> Recipe:
    return dataclasses.replace(recipe, name=name, views="crops", variant="whole", augment_levels=(False,))
