"""Two small pictures as SVG text: a bar with its interval, and a table over the image as a heat map."""

WIDTH, HEIGHT = 150, 12  # of a bar, in pixels
CELL = 36  # side of a square of a heat map


def bar(value: float, low: float, high: float, full: float) -> str:
    """A bar from 0 to `value` with a line from `low` to `high`; `full` is the value of the whole width. Clipped to it."""
    at, left, right = (WIDTH * min(max(x / full, 0.0), 1.0) for x in (value, low, high))
    middle = HEIGHT / 2
    ends = "".join(f"<path class='interval' d='M{x:.1f} {middle - 3} v6'/>" for x in (left, right))
    return (
        f"<svg width='{WIDTH}' height='{HEIGHT}' role='img' aria-label='{value:.3f}, {low:.3f} to {high:.3f}'>"
        f"<rect class='value' width='{at:.1f}' height='{HEIGHT}'/>"
        f"<rect class='frame' x='.5' y='.5' width='{WIDTH - 1}' height='{HEIGHT - 1}'/>"
        f"<path class='interval' d='M{left:.1f} {middle} H{right:.1f}'/>{ends}</svg>"
    )


def heat(table: list[list[float]]) -> str:
    """Squares from white (0) to blue (1), row by row from the top, each with its value; values outside are clipped."""
    rows, columns = len(table), max((len(row) for row in table), default=0)
    squares = []
    for y, row in enumerate(table):
        for x, value in enumerate(row):
            share = min(max(value, 0.0), 1.0)
            red, green, blue = (round(255 + share * (end - 255)) for end in (20, 66, 130))
            ink = "#fff" if share > 0.5 else "#1b1f24"
            squares.append(
                f"<rect x='{x * CELL}' y='{y * CELL}' width='{CELL}' height='{CELL}' fill='rgb({red},{green},{blue})'/>"
                f"<text x='{(x + 0.5) * CELL:g}' y='{(y + 0.5) * CELL + 4:g}' text-anchor='middle' font-size='11' "
                f"fill='{ink}'>{value:.2f}</text>"
            )
    return f"<svg width='{columns * CELL}' height='{rows * CELL}' role='img'>{''.join(squares)}</svg>"
