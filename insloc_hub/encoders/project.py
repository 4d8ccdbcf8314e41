"""The two-layer projection from region vectors to the contrast space: MoCo v2's MLP (paper.md A.6, as inferred)."""

from torch import Tensor, nn

from insloc_hub.shapes import Float


class Projection(nn.Module):
    """fc, ReLU, fc; torch's own initialisation, as MoCo v2."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, vectors: Float[Tensor, "b c"]) -> Float[Tensor, "b d"]:
        """Embeddings, not normalised."""
        out: Tensor = self.fc2(nn.functional.relu(self.fc1(vectors)))
        return out
