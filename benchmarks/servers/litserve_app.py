"""LitServe with a timm model as its documentation shows, or with our engine in its four hooks (docs of LitAPI, 0.2.19).

What it is given is the cheapest that it takes: the image is the raw body (a form or base64 costs more), client.py is not
written, requests are not logged.
"""

import io
import json
from typing import Annotated, Any, Literal

import litserve
import tyro
from fastapi import Body, Response


class Timm(litserve.LitAPI):  # type: ignore[misc]
    """The plain model in eager mode, with the transform that timm gives for it."""

    def __init__(self, arch: str, **batching: Any) -> None:
        super().__init__(**batching)
        self.arch = arch

    def setup(self, device: str) -> None:
        """In each worker."""
        from servers.plain import load_plain

        self.model, self.transform = load_plain(self.arch)

    def decode_request(self, request: Annotated[bytes, Body()]) -> Any:
        """Pillow, then timm's transform: [3 h w]."""
        from PIL import Image

        return self.transform(Image.open(io.BytesIO(request)).convert("RGB"))

    def predict(self, x: Any) -> Any:
        """[b 3 h w] -> [b d]; without batching [3 h w] -> [d]."""
        import torch

        with torch.inference_mode():
            return self.model(x) if x.ndim == 4 else self.model(x[None])[0]

    def encode_response(self, output: Any) -> Any:
        """A list, which the framework makes JSON of."""
        return {"pooled": output.tolist()}


class Ours(litserve.LitAPI):  # type: ignore[misc]
    """Our decoder, transform, engine and encoder behind its HTTP, queues and batching: what differs is the server alone."""

    def __init__(self, arch: str, engine: str, **batching: Any) -> None:
        super().__init__(**batching)
        self.arch = arch
        self.engine = engine

    def setup(self, device: str) -> None:
        """In each worker."""
        from insloc_hub import load
        from insloc_server.engines import make_forwarder

        self.extractor = load(f"random:{self.arch}", "cpu")
        self.transform = self.extractor.transform("eval")
        self.forwarder = make_forwarder(self.extractor, self.engine)

    def decode_request(self, request: Annotated[bytes, Body()]) -> Any:
        """[3 h w]"""
        from insloc_hub.data.decode import decode

        return self.extractor.prepare(decode(request), self.transform)[0]

    def predict(self, x: Any) -> Any:
        """[b 3 h w] -> [b d]; without batching [3 h w] -> [d]."""
        vectors = self.forwarder.forward(x if x.ndim == 4 else x[None], [], True).pooled
        assert vectors is not None
        return vectors if x.ndim == 4 else vectors[0]

    def encode_response(self, output: Any) -> Any:
        """The bytes, built here: its own way to JSON costs more."""
        return Response(json.dumps({"pooled": output.tolist()}, separators=(",", ":")), media_type="application/json")


def main(
    arch: str,
    *,
    port: int,
    model: Literal["timm", "ours"] = "timm",
    engine: str = "auto",
    batch: int = 1,
    window_ms: float = 0.0,
    workers: int = 1,
    transport: Literal["queue", "zmq"] = "queue",
    timeout_s: float = 30.0,
    imports: Literal["top", "setup"] = "setup",
) -> None:
    """Serve until killed. `imports`: where torch and timm are: at the top, as in the documentation's files, or in setup."""
    if imports == "top":
        import timm  # noqa: F401
    batching = {"max_batch_size": batch, "batch_timeout": window_ms / 1000}
    api = Timm(arch, **batching) if model == "timm" else Ours(arch, engine, **batching)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=workers, timeout=timeout_s, fast_queue=transport == "zmq"
    )
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    tyro.cli(main)
