"""The errors a user can cause, as data.

Every child of `InslocError` carries what a program needs as attributes and says in its text what is wrong, with which
thing, and the way out. Command lines print the text and exit with 2; the server makes a problem body of it.
"""

import difflib
from collections.abc import Iterable


class InslocError(Exception):
    """Anything that is the input's fault, not ours. `str(error)` is one or a few lines made to be read by a person."""


class UnknownName(InslocError):
    """A name that is not in a closed list; carries `name` and the nearest right names as `near`."""

    def __init__(self, kind: str, name: str, known: Iterable[str], see: str) -> None:
        self.kind = kind
        self.name = name
        self.near = nearest(name, known)
        hint = f"; did you mean {' or '.join(repr(n) for n in self.near)}?" if self.near else "."
        super().__init__(f"unknown {kind} {name!r}{hint} See: {see}")


class BadSpec(InslocError):
    """A model spec that can't be read, or that names weights which can't be had."""


class BadData(InslocError):
    """A folder, list or annotation file that can't be used as asked; carries `path`."""

    def __init__(self, path: object, problem: str) -> None:
        self.path = str(path)
        super().__init__(f"{path}: {problem}")


class BadImage(InslocError):
    """Bytes that are no usable image.

    `code` is one of unsupported_image, image_truncated, image_too_large, image_too_small, bad_aspect_ratio, empty_image.
    """

    def __init__(self, code: str, problem: str) -> None:
        self.code = code
        super().__init__(problem)


class BadBox(InslocError):
    """A box that has no region inside its image; carries `index`, its position in the list that was given."""

    def __init__(self, index: int, problem: str) -> None:
        self.index = index
        super().__init__(f"box {index}: {problem}")


class BadCheckpoint(InslocError):
    """A weights file that can't be read, recognised, trusted or converted; carries `path`."""

    def __init__(self, path: object, problem: str) -> None:
        self.path = str(path)
        super().__init__(f"{path}: {problem}")


class BadRun(InslocError):
    """A run folder, checkpoint or setting that training can't go on with."""


class NotFinite(InslocError):
    """Training or evaluation met a NaN or an infinity; the text names the step and what to turn."""


class Collapsed(InslocError):
    """A run that learns nothing any more, ended because --strict asked for it; carries the `step` it was saved at."""

    def __init__(self, step: int, problem: str) -> None:
        self.step = step
        super().__init__(f"collapsed, saved at step {step}, stopped since --strict was given: {problem}")


class CannotWrite(InslocError):
    """A folder or file that can't be written; carries `path`."""

    def __init__(self, path: object, reason: str) -> None:
        self.path = str(path)
        super().__init__(f"can't write {path}: {reason}. Choose another place, or free space or permission there.")


def nearest(name: str, known: Iterable[str], most: int = 3) -> tuple[str, ...]:
    """At most `most` of `known` that look like `name`, best first.

    >>> nearest("resnet81", ["resnet18", "resnet50", "vgg16"], most=1)
    ('resnet18',)
    """
    return tuple(difflib.get_close_matches(name, list(known), n=most, cutoff=0.6))
