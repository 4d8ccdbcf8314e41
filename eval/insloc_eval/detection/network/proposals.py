"""RPN: dense where proposals are looked for, sparse where it learns.

A step's loss reads 256 anchors an image of tens of thousands, so the gradient of a dense pass is nearly all zeros; here it
is taken through the cells that those anchors read. Same numbers (tested), a seventh of a step's time on a CPU less.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers

from insloc_eval.detection.network.losses import full, proposal_losses
from insloc_hub.shapes import Float, Int

Maps = Sequence[Float[Tensor, "b c _ _"]]


class ProposalHead(RPNHead):  # type: ignore[misc]
    """torchvision's with one convolution (paper.md C.1; its own `_v2` detectors have two); what leaves is float32 or wider."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per map: objectness [b a h w], deltas [b 4a h w]."""
        logits, deltas = super().forward(x)
        return [full(one) for one in logits], [full(one) for one in deltas]

    def at(self, maps: Maps, places: Int[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 4"]]:
        """What `forward` gives for some anchors, numbered by image, then map, row, column and kind; with gradients."""
        kinds = self.cls_logits.out_channels
        sizes = torch.tensor([one.shape[2] * one.shape[3] for one in maps], device=places.device)
        cell, kind = places // kinds, places % kinds
        image, cell = cell // sizes.sum(), cell % sizes.sum()
        level = torch.bucketize(cell, sizes.cumsum(0), right=True)
        cell = cell - (sizes.cumsum(0) - sizes)[level]
        on = [torch.where(level == number)[0] for number in range(len(maps))]
        read = torch.cat([around(one, image[at], cell[at]) for one, at in zip(maps, on, strict=True)])
        conv = self.conv[0][0]
        hidden = F.linear(read, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias).relu()
        back = torch.argsort(torch.cat(on))
        logits = F.linear(hidden, self.cls_logits.weight[:, :, 0, 0], self.cls_logits.bias)[back]
        deltas = F.linear(hidden, self.bbox_pred.weight[:, :, 0, 0], self.bbox_pred.bias)[back]
        row = torch.arange(len(places), device=places.device)
        return full(logits[row, kind]), full(deltas.reshape(-1, kinds, 4)[row, kind])


def around(one: Float[Tensor, "b c h w"], image: Int[Tensor, " n"], cell: Int[Tensor, " n"]) -> Float[Tensor, "n nine_c"]:
    """The 3 x 3 cells around each, row by row, zeros outside, all channels of a cell together."""
    h, w = one.shape[2:]
    step = torch.arange(-1, 2, device=cell.device)
    y = (cell // w)[:, None, None] + step[:, None]
    x = (cell % w)[:, None, None] + step
    inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    index = (image[:, None, None] * h + y.clamp(0, h - 1)) * w + x.clamp(0, w - 1)
    rows = one.flatten(2).transpose(1, 2).flatten(0, 1)
    # index_select: its gradient adds in a fixed order on a CPU, that of indexing with several threads does not
    read = rows.index_select(0, index.flatten()) * inside.reshape(-1, 1)
    return read.reshape(len(cell), 9 * one.shape[1])


class RPN(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's, with an L1 box loss, on a ProposalHead."""

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals [n 4] of each image; in training loss_objectness and loss_rpn_box_reg too, else no losses."""
        if not self.training:
            proposals: tuple[list[Tensor], dict[str, Tensor]] = super().forward(images, features)
            return proposals
        maps = list(features.values())
        anchors = self.anchor_generator(images, maps)
        with torch.no_grad():
            logits, deltas = self.head(maps)
            counts = [one[0].numel() for one in logits]
            logits, deltas = concat_box_prediction_layers(logits, deltas)
            decoded = self.box_coder.decode(deltas, anchors).view(len(anchors), -1, 4)
            boxes, _ = self.filter_proposals(decoded, logits, images.image_sizes, counts)
            labels, matched = self.assign_targets_to_anchors(anchors, targets)
            wanted = torch.cat(self.box_coder.encode(matched, anchors))
            positive, negative = (torch.where(torch.cat(masks))[0] for masks in self.fg_bg_sampler(labels))
        drawn = torch.cat([positive, negative])
        some, moves = self.head.at(maps, drawn)
        objectness, box = proposal_losses(some, moves, torch.cat(labels)[drawn], wanted[drawn])
        return boxes, {"loss_objectness": objectness, "loss_rpn_box_reg": box}
