"""The offline loop (contracts.md 12): the server's own work on the server's threads, without a server or a request.

In two orders, the faster of which is the base: everything in turn, or decoding and encoding on a second thread beside the
forward, as the server has them.
"""

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
import tyro
from torch import Tensor

from insloc_hub import load
from insloc_hub.data.decode import decode
from insloc_server.answers import json_bytes
from insloc_server.engines import make_forwarder
from servers import pictures
from servers.client import PICTURES
from servers.orders import Answer, obey

BATCH = 8  # the server's --batch-images


class Loop:
    """The model, and what is done with it."""

    def __init__(self, arch: str, engine: str) -> None:
        self.extractor = load(f"random:{arch}", "cpu")
        self.transform = self.extractor.transform("eval")
        self.forwarder = make_forwarder(self.extractor, engine)
        self.bodies = pictures.usual(PICTURES)

    def inputs(self, bodies: list[bytes]) -> Tensor:
        """[b 3 h w]"""
        return torch.stack([self.extractor.prepare(decode(body), self.transform)[0] for body in bodies])

    def vectors(self, inputs: Tensor) -> Tensor:
        """[b d]"""
        vectors = self.forwarder.forward(inputs, [], True).pooled
        assert vectors is not None
        return vectors

    def encode(self, vectors: Tensor) -> list[bytes]:
        """An answer per image."""
        return [json_bytes({"images": [{}]}, [{"pooled": vector}], "float") for vector in vectors]

    def batches(self) -> Iterator[list[bytes]]:
        """Without end."""
        turn = itertools.cycle(self.bodies)
        while True:
            yield list(itertools.islice(turn, BATCH))

    def run(self, ahead: bool, seconds: float) -> Answer:
        """Images per second."""
        start, done = time.monotonic(), 0
        batches = self.batches()
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(self.inputs, next(batches))
            while time.monotonic() < start + seconds:
                if ahead:
                    inputs = following.result()
                    following = pool.submit(self.inputs, next(batches))
                    pool.submit(self.encode, self.vectors(inputs))
                else:
                    self.encode(self.vectors(self.inputs(next(batches))))
                done += BATCH
            took = time.monotonic() - start
        return {"rate": done / took}

    def mixed(self, count: int) -> Answer:
        """The vector of each picture of mixed size."""
        found = [self.vectors(self.inputs([body]))[0].tolist() for body in pictures.mixed(count)]
        return {"vectors": found}


def main(arch: str, engine: str = "auto") -> None:
    """Obey until nobody orders any more."""
    loop = Loop(arch, engine)
    obey({"run": loop.run, "vectors": loop.mixed})


if __name__ == "__main__":
    tyro.cli(main)
