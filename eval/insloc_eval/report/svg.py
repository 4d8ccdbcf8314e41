"""Three small pictures as SVG text: a bar with its interval, a table over the image as a heat map, and a curve."""

WIDTH, HEIGHT = 150, 12  # of a bar, in pixels
CURVE_WIDTH, CURVE_HEIGHT, EDGE = 220, 110, 14  # of a curve
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


def curve(points: list[list[float]]) -> str:
    """A line through (step, value); the axes begin at 0 or at the lowest value, and the last value stands at its end."""
    last, top = max(x for x, _ in points), max(0.0, *(y for _, y in points))
    low = min(0.0, *(y for _, y in points))
    wide, tall = CURVE_WIDTH - 4 * EDGE, CURVE_HEIGHT - 2 * EDGE
    places = [(EDGE + wide * x / max(last, 1e-12), EDGE + tall * (1 - (y - low) / max(top - low, 1e-12))) for x, y in points]
    path = " L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    x, y = places[-1]
    floor = CURVE_HEIGHT - EDGE
    return (
        f"<svg width='{CURVE_WIDTH}' height='{CURVE_HEIGHT}' role='img' aria-label='{points[-1][1]:.3f} at step {last:.0f}'>"
        f"<path class='interval' d='M{EDGE} {EDGE} V{floor} H{EDGE + wide}' fill='none' opacity='.4'/>"
        f"<path class='interval' d='M{path}' fill='none'/>"
        f"<text x='{x + 3:.1f}' y='{y + 4:.1f}' font-size='11' fill='currentColor'>{points[-1][1]:.3g}</text>"
        f"<text x='{EDGE + wide}' y='{CURVE_HEIGHT - 2}' font-size='10' text-anchor='end' fill='currentColor'>{last:.0f}</text>"
        "</svg>"
    )
