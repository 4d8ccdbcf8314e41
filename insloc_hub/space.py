"""The id of an embedding space: two vectors may be compared only if theirs are equal (contracts.md 7)."""

from insloc_hub.files import digest


def embedding_space(weights_sha256: str, transform: str, output: str, arithmetic: str = "fp32") -> str:
    """A short id from the weights, the transform's name and the output's (e.g. "regions/stride-16/mean").

    Engine and fp32 precision are not in it: they are gated by parity. bf16 and fp16 arithmetic get their own id.
    """
    value = [weights_sha256, transform, output] + ([] if arithmetic == "fp32" else [arithmetic])
    return digest(value)[:16]
