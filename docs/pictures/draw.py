"""The site's pictures as SVG, from pictures.json: `python docs/pictures/draw.py`.

They are drawn on a white card, so that they are legible on light and dark pages, and 420 units wide, so that letters keep their
size on a telephone. Colours differ in lightness, too, for those who lack a cone.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
WIDTH = 420
POPULAR, TAIL, DARK, GREY, PALE = "#0072b2", "#e69f00", "#222222", "#777777", "#dddddd"


def svg(height: int, title: str, parts: list[str]) -> str:
    """Return a card of this height; the title is what a screen reader says."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">\n'
        f"<title>{title}</title>\n"
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def text(x: float, y: float, words: str, *, anchor: str = "start", fill: str = DARK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{words}</text>'


def line(points: list[tuple[float, float]], *, stroke: str, width: float = 1.2, opacity: float = 1) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="{width}" stroke-opacity="{opacity}"/>'
    )


def dot(x: float, y: float, radius: float, *, fill: str, stroke: str = "none") -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}" stroke="{stroke}"/>'


def session(found: dict) -> str:
    """Draw slates as columns, a square an item, and below them the user's patience."""
    slates, clicks, temper = found["popular"], found["clicks"], found["temper"]
    steps, left, top = len(slates), 74, 34
    pitch = (WIDTH - left - 12) / steps
    side = pitch - 2
    parts = [text(12, 20, "One user, from arrival to leaving: a column is a slate of 6")]
    for slot in range(len(slates[0])):
        for step in range(steps):
            colour = POPULAR if slates[step][slot] else TAIL
            x, y = left + step * pitch, top + slot * pitch
            fill = colour if clicks[step][slot] else "#ffffff"
            parts.append(
                f'<rect x="{x + 1:.1f}" y="{y + 1:.1f}" width="{side:.1f}" height="{side:.1f}" rx="2" '
                f'fill="{fill}" stroke="{colour}" stroke-width="1.4"/>'
            )
    middle = top + 3 * pitch
    parts += [text(12, middle - 14, "popular", fill=POPULAR), text(12, middle + 24, "long tail", fill="#9a6a00")]
    base, height = top + 6 * pitch + 92, 70
    most = temper[0]
    points = [(left + i * pitch, base - height * max(t, 0) / most) for i, t in enumerate(temper)]
    parts += [
        line([(left, base), (left + steps * pitch, base)], stroke=PALE),
        line(points, stroke=DARK, width=1.8),
        text(12, base - height + 10, "patience"),
        text(12, base - height + 26, f"{most:.0f} steps", fill=GREY),
        text(left + steps * pitch, base + 16, f"leaves after {steps} slates", anchor="end", fill=GREY),
        text(left, base + 16, "filled: clicked", fill=GREY),
    ]
    clicked = sum(map(sum, clicks))
    title = (
        f"One session of {steps} slates: each of three popular and three long-tail items, {clicked} of {6 * steps} clicked; "
        f"patience falls from {most:.0f} steps by 2 less the share of clicks at every slate until the user leaves"
    )
    return svg(round(base + 28), title, parts)


def scaled(groups: list[list], box: tuple[float, float, float, float]) -> list[list[tuple[float, float]]]:
    """Bring points of all groups into one box (left, top, right, bottom), one unit the same on both axes."""
    points = [p for group in groups for p in group]
    low = [min(p[i] for p in points) for i in (0, 1)]
    high = [max(p[i] for p in points) for i in (0, 1)]
    left, top, right, bottom = box
    unit = min((right - left) / (high[0] - low[0]), (bottom - top) / (high[1] - low[1]))
    middle = [(low[i] + high[i]) / 2 for i in (0, 1)]
    centre = (left + right) / 2, (top + bottom) / 2
    return [[(centre[0] + unit * (x - middle[0]), centre[1] - unit * (y - middle[1])) for x, y in g] for g in groups]


def purify(found: dict) -> str:
    """Draw users' states before and after, beside the state that predicts their true clicks best; and what each earns."""
    plane, best = found["plane"], found["best"]
    observed, purified, oracle = scaled([plane[k] for k in ("observed", "purified", "oracle")], (20, 44, 400, 270))
    parts = [text(12, 20, "Twelve held-out users, before and after purification")]
    for a, b, c in zip(observed, purified, oracle, strict=True):
        parts += [line([b, c], stroke=PALE), line([a, b], stroke=POPULAR)]
    parts += [dot(*c, 4, fill="#ffffff", stroke=DARK) for c in oracle]
    parts += [dot(*a, 3, fill=TAIL) for a in observed] + [dot(*b, 4, fill=POPULAR) for b in purified]
    legend = [("observed", TAIL), ("purified", POPULAR), ("nearest to the true clicks", DARK)]
    x = 14.0
    for name, colour in legend:
        parts += [dot(x, 292, 4, fill="#ffffff" if colour == DARK else colour, stroke=colour), text(x + 9, 296, name)]
        x += 9 + 6.6 * len(name) + 18
    rows = [("any item", found["catalogue"], GREY), ("observed", best["observed"][0], TAIL)]
    rows += [("purified", best["purified"][0], POPULAR), ("oracle", best["oracle"][0], DARK)]
    parts.append(text(12, 326, "True chance of a click on the 25 items that a state ranks first"))
    for i, (name, value, colour) in enumerate(rows):
        y = 338 + 18 * i
        parts.append(text(12, y + 10, name))
        parts.append(f'<rect x="80" y="{y}" width="{280 * value:.1f}" height="12" fill="{colour}"/>')
        parts.append(text(86 + 280 * value, y + 10, f"{value:.2f}"))
    title = (
        "States of twelve users before and after purification; the true chance of a click on the 25 items ranked first is "
        f"{best['observed'][0]:.2f} by the observed state, {best['purified'][0]:.2f} by the purified one, "
        f"{best['oracle'][0]:.2f} by the best one, {found['catalogue']:.2f} on any item (200 users)"
    )
    return svg(338 + 18 * len(rows) + 10, title, parts)


def reverse(found: dict) -> str:
    """Draw the way of users' states through the levels of the reverse process."""
    path = found["path"]
    steps = len(path) - 1
    ways = scaled([[level[user] for level in path] for user in range(len(path[0]))], (24, 40, 396, 270))
    parts = [text(12, 20, f"{len(ways)} users through the {steps} levels of Eq. (3), purifier guided")]
    for way in ways:
        parts += [line(way, stroke=POPULAR, opacity=0.7), *(dot(*p, 1.3, fill=POPULAR) for p in way[1:-1])]
        parts += [dot(*way[0], 3, fill=TAIL), dot(*way[-1], 4, fill=POPULAR)]
    parts += [
        dot(18, 292, 3, fill=TAIL),
        text(27, 296, f"noised start, level {steps}"),
        dot(190, 292, 4, fill=POPULAR),
        text(200, 296, "purified, level 0"),
    ]
    title = (
        f"Two whitened coordinates of {len(ways)} users' states on their way through {steps} levels: they begin close together "
        "and are led apart by what each history says"
    )
    return svg(308, title, parts)


def pictures(found: dict) -> dict[str, str]:
    """Return the SVG files by name."""
    drawn = {
        "session": session(found["session"]),
        "purify": purify(found["states"]),
        "reverse": reverse(found["states"]),
    }
    return {f"{name}.svg": text for name, text in drawn.items()}


def main() -> None:
    for name, drawn in pictures(json.loads((HERE / "pictures.json").read_text())).items():
        (HERE / name).write_text(drawn)


if __name__ == "__main__":
    main()
