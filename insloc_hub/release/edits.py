"""A card that a person and a program both write: what is whose, and whose edit wins where it lies here and on the Hub.

Ours are the lines between two marks and the model-index; the rest of the text and of the front matter is a person's, and is
only ever added to. Read and written by the Hub's own parser, so comments inside the front matter do not stay.
"""

from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from insloc_hub.errors import BadData

BEGIN = "<!-- insloc publish: from here to the second mark all is made anew at each push; write above or below -->"
END = "<!-- insloc publish: second mark -->"


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A card taken apart. Two are equal when a person's parts are."""

    front: dict[str, Any] = field(default_factory=dict)
    """Front matter without the model-index."""
    above: str = ""
    below: str = ""
    results: tuple[EvalResult, ...] = field(default=(), compare=False)
    """The model-index."""


def read_page(text: str, where: str, defaults: dict[str, Any], given: dict[str, Any]) -> Page:
    """A card's parts; what its front matter does not say is taken from `defaults`, tags are joined, `given` replaces.

    A text without our marks is all a person's. BadData: `where` has a broken front matter, or one mark without the other.
    """
    try:
        card = ModelCard(text)
        front: dict[str, Any] = card.data.to_dict()  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever a YAML parser raises: a person may have edited it
        first = " ".join(str(error).split())
        raise BadData(where, f"its front matter can't be read ({first}); mend it there, then publish again") from None
    front.pop("model-index", None)
    tags = front.get("tags") or []
    front = {**defaults, **front, **given, "tags": list(dict.fromkeys([*tags, *defaults.get("tags", ())]))}
    above, begin, rest = card.text.partition(BEGIN)
    _, end, below = rest.partition(END)
    if bool(begin) != bool(end) or (not begin and END in card.text):
        raise BadData(where, f"one of the two marks is lost; put it back, or delete the other too and our lines: {BEGIN} {END}")
    if not begin:
        above, below = "", card.text
    front.pop("model_name", None)
    results = tuple(getattr(card.data, "eval_results", None) or ())
    return Page(front=front, above=above.strip("\r\n"), below=below.strip("\r\n"), results=results)


def write_page(page: Page, block: str, name: str, results: list[EvalResult]) -> str:
    """The whole card: front matter with `results` as the index of the model `name`, a person's text around our block."""
    evidence: dict[str, Any] = {"model_name": name, "eval_results": results} if results else {}
    front = ModelCardData(**page.front, **evidence).to_yaml()
    pieces = [page.above, f"{BEGIN}\n{block.strip()}\n{END}", page.below]
    return f"---\n{front}\n---\n" + "\n\n".join(piece for piece in pieces if piece) + "\n"


def settle(here: Page | None, there: Page | None, before: Page | None, place: str) -> Page | None:
    """The page to go on from: of those here and on the Hub the one that was edited since `before`; None: there is none.

    BadData: both were, and differently.
    """
    if here is None or there is None or here == there:
        return there if here is None else here
    if before is not None and here == before:
        return there
    if before is not None and there == before:
        return here
    raise BadData(
        place,
        "this card and the one on the Hub were both edited, differently. Bring your edits into the one on the Hub, "
        "delete this file, and publish again",
    )
