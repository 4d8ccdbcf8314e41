"""Plain FastAPI: a `def` endpoint, which runs in the framework's pool of threads, and the plain timm model in eager mode."""

import io
from typing import Annotated

import torch
import tyro
import uvicorn
from fastapi import Body, FastAPI
from fastapi.responses import JSONResponse
from PIL import Image

from servers.plain import load_plain


def create_app(arch: str) -> FastAPI:
    """The model behind POST /predict; the body is the image."""
    app = FastAPI()
    model, transform = load_plain(arch)

    @app.get("/health")
    def health() -> str:
        return "ok"

    @app.post("/predict")
    def predict(image: Annotated[bytes, Body()]) -> JSONResponse:
        pixels = transform(Image.open(io.BytesIO(image)).convert("RGB"))
        with torch.inference_mode():
            vector = model(pixels[None])[0]
        return JSONResponse({"pooled": vector.tolist()})  # past the framework's encoder, which is slow with long lists

    return app


def main(arch: str, *, port: int) -> None:
    """Serve until killed."""
    uvicorn.run(create_app(arch), host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    tyro.cli(main)
