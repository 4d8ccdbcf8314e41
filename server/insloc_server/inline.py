"""Images that stand in JSON: base64 or data URIs -> bytes. A URL is never fetched (serving.md 5: the recurring hole)."""

import base64
import binascii
import re
from collections.abc import Sequence

from insloc_server.problems import Refusal

MOST_VALUES = 20_000  # of a JSON body: 1,024 boxes are a quarter; empty lists cost 30 times their bytes in memory
DATA_URI = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,20}:")


def check_values(body: bytes | bytearray) -> None:
    """Refusal: bad_json, for a body of so many values that reading it would fill the memory. Images have no commas inside."""
    if body.count(b",") > MOST_VALUES:
        raise Refusal("bad_json", f"the JSON has over {MOST_VALUES:,} values", limit=MOST_VALUES)


def image_bytes(images: Sequence[str], most: int) -> list[bytes]:
    """The bytes of each image. Refusal: bad_request with `index`: a URL, no base64, or more than `most` images."""
    if len(images) > most:
        raise Refusal("bad_request", f"more than {most} images in one request", limit=most)
    return [_bytes(text, index) for index, text in enumerate(images)]


def _bytes(text: str, index: int) -> bytes:
    begin = DATA_URI.match(text)
    if begin is None and SCHEME.match(text):
        what = "this data URI is not base64" if text[:5].lower() == "data:" else "URLs are never fetched"
        raise Refusal("bad_request", f"image {index}: {what}; send the image itself as base64", index=index)
    try:
        return base64.b64decode(text[begin.end() if begin else 0 :], validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("bad_request", f"image {index} is no base64 and no data URI", index=index) from None
