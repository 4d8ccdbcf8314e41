"""COCO's run-length encodings, checked before compiled code reads them: a damaged one can crash it or draw nonsense.

Runs go down the columns, of background and object in turn. Uncompressed they are a list of integers; compressed, text of
6 bits a character from "0" on: 5 bits of a number from the lowest, bit 5 for "more", bit 4 of the last its sign; from the
third run on the difference to the run two before (cocoapi, maskApi.c rleFrString).
"""

from typing import Any


def check_runs(mask: dict[str, Any], size_hw: tuple[int, int]) -> str:
    """What is wrong with an encoding for a picture of this size; empty where nothing is.

    >>> check_runs({"size": [2, 3], "counts": [1, 5]}, (2, 3)), check_runs({"size": [2, 3], "counts": [1, 4]}, (2, 3))
    ('', 'its runs make up 5 pixels, the picture has 6')
    """
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list | tuple) or tuple(size) != size_hw:
        return f"its size is {size!r}, the picture's is {list(size_hw)}"
    runs = text_to_runs(counts) if isinstance(counts, str | bytes) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        return "its counts are no run lengths"
    pixels = size_hw[0] * size_hw[1]
    return "" if sum(runs) == pixels else f"its runs make up {sum(runs)} pixels, the picture has {pixels}"


def text_to_runs(text: str | bytes) -> list[int] | None:
    """The runs of compressed counts; None where the text is cut or has a character that none has."""
    codes = text.encode("utf-8") if isinstance(text, str) else text
    runs: list[int] = []
    value = shift = 0
    for code in codes:
        bits = code - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs if shift == 0 else None
