"""InfoNCE against a queue, per level. van den Oord et al. 2018 (arXiv:1807.03748), equation 4; paper.md A.2."""

import torch
from torch import Tensor

from insloc_hub.shapes import Float


def infonce(
    query: Float[Tensor, "b l d"], key: Float[Tensor, "b l d"], queue: Float[Tensor, "l d k"], temperature: float
) -> tuple[Float[Tensor, " l"], Float[Tensor, " l"]]:
    """Loss (nats, mean over the batch) and accuracy (share where the positive beats every negative), per level.

    All vectors have unit length. A queue that is no closer than the positive gives at most ln(k + 1).
    """
    positive = torch.einsum("bld,bld->bl", query, key)[:, :, None]
    negative = torch.einsum("bld,ldk->blk", query, queue)
    logits = torch.cat([positive, negative], dim=2) / temperature  # [b l 1+k]
    loss = logits.logsumexp(dim=2) - logits[:, :, 0]
    # Read before the mean: a tie with a negative is no recognition.
    correct = positive[:, :, 0] > negative.amax(dim=2)
    return loss.mean(dim=0), correct.float().mean(dim=0).detach()
