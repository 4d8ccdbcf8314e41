"""Who competes, as commands. All have two threads, one model with the same random weights, and the same requests."""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import Literal

from servers.search import Cell
from servers.start import THREADS, Program

LITSERVE = "0.2.19"
DEADLINE_S = 1.0
HERE = Path(__file__).parent


def missing() -> str | None:
    """What must be installed first, and how."""
    how = "pip install -e '.[bench]'"
    try:
        found = importlib.metadata.version("litserve")
    except importlib.metadata.PackageNotFoundError:
        return f"LitServe {LITSERVE} is not installed: {how}"
    return None if found == LITSERVE else f"LitServe {found} is installed, the comparison is with {LITSERVE}: {how}"


def no_onnx() -> str | None:
    """Why the engine `onnx` can't be measured, if so."""
    lacks = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    return f"not run: {', '.join(lacks)} not installed (pip install -e '.[onnx]')" if lacks else None


def ours(arch: str, engine: str = "auto") -> Program:
    """`insloc-server` with its defaults. A client with a deadline says so, which is part of the interface."""
    command = f"-m insloc_server.cli --model random:{arch} --device cpu --engine {engine} --port {{port}}"
    return Program(
        name=f"ours ({engine})",
        command=(sys.executable, *command.split()),
        path="/v1/features",
        ready="/readyz",
        headers=(("x-deadline-ms", str(round(DEADLINE_S * 1000))),),
    )


def litserve(
    arch: str, cell: Cell, model: Literal["timm", "ours"], engine: str = "auto", imports: Literal["top", "setup"] = "setup"
) -> Program:
    """LitServe in one cell. `imports` is said where memory is measured; without, its parent process has no torch."""
    words = f"--model {model} --engine {engine} --batch {cell.batch} --window-ms {cell.window_ms} --workers {cell.workers}"
    more = f"--transport {cell.transport} --timeout-s {cell.timeout_s} --imports {imports} --port {{port}}"
    return Program(
        name=f"LitServe, {'plain timm' if model == 'timm' else 'our model and engine'} ({cell})",
        command=(sys.executable, str(HERE / "litserve_app.py"), "--arch", arch, *words.split(), *more.split()),
        path="/predict",
        ready="/health",
        threads=cell.threads,
    )


def fastapi(arch: str, threads: int = THREADS) -> Program:
    """FastAPI; `threads` are torch's in each thread of its pool."""
    return Program(
        name=f"FastAPI, plain timm ({threads} torch threads a request)",
        command=(sys.executable, str(HERE / "fastapi_app.py"), "--arch", arch, "--port", "{port}"),
        path="/predict",
        ready="/health",
        threads=threads,
    )
