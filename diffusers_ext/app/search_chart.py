"""Draw a search as SVG: the best score as evaluations are spent, and what became of each candidate."""

from __future__ import annotations

from html import escape

from .search_watch import Lane, Look

WIDTH, HEIGHT = 420, 170  # of the curve, in units that are px on a small screen
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 10, 32
MOST = 60  # candidates that are drawn; the last ones if there are more
EMPTY = "<p>The curve is drawn while a search runs.</p>"


def curve(look: Look) -> str:
    """Draw the best score over evaluations, and a dot for each candidate where it was finished."""
    if not look.curve:
        return "<p>No picture is finished yet.</p>"
    scores = [score for _, score in (*look.curve, *look.dots)]
    low, high = min(scores), max(scores)
    room = max((high - low) * 0.1, 0.005)
    low, high = low - room, high + room
    right = max(look.planned, look.curve[-1][0], 1)

    def x(spent: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * spent / right

    def y(score: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - score) / (high - low)

    floor = HEIGHT - BOTTOM
    parts = [
        f'<line class="axis" x1="{LEFT}" y1="{TOP}" x2="{LEFT}" y2="{floor}"/>',
        f'<line class="axis" x1="{LEFT}" y1="{floor}" x2="{WIDTH - RIGHT}" y2="{floor}"/>',
    ]
    for score in (low + room, (low + high) / 2, high - room):
        parts.append(f'<text x="{LEFT - 6}" y="{y(score) + 4:.1f}" text-anchor="end">{score:.3f}</text>')
    for spent in (0, right // 2, right):
        parts.append(f'<text x="{x(spent):.1f}" y="{floor + 15}" text-anchor="middle">{spent}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">evaluations</text>')
    parts += [f'<circle class="dot" cx="{x(e):.1f}" cy="{y(s):.1f}" r="3"/>' for e, s in look.dots]
    steps = [f"M{x(look.curve[0][0]):.1f} {y(look.curve[0][1]):.1f}"]
    steps += [f"H{x(e):.1f}V{y(s):.1f}" for e, s in look.curve[1:]]
    end, best = look.curve[-1]
    parts.append(f'<path class="curve" d="{"".join(steps)}"/>')
    parts.append(f'<circle class="best" cx="{x(end):.1f}" cy="{y(best):.1f}" r="5"/>')
    label = f"best score {best:.3f} after {end} evaluations"
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"'
    return f'<svg class="search-chart" {box}>{"".join(parts)}</svg>'


def lanes(look: Look) -> str:
    """Draw a bar for each candidate, as long as it ran, in the colour of what became of it."""
    shown = look.lanes[-MOST:]
    if not shown:
        return ""
    longest = max(1, *(lane.evaluations for lane in shown))
    rows = []
    for lane in shown:
        kind, words = _fate(lane)
        length = max(100 * lane.evaluations / longest, 1)
        bar = f'<div class="{kind}" style="width: {length:.1f}%"></div>'
        rows.append(f'<li class="search-lane"><span>{escape(lane.name)}</span>{bar}<span>{words}</span></li>')
    rest = len(look.lanes) - len(shown)
    before = f"<p>{rest} candidates before these are not drawn.</p>" if rest else ""
    return f'{before}<ul class="search-chart" style="list-style: none; padding: 0">{"".join(rows)}</ul>'


def _fate(lane: Lane) -> tuple[str, str]:
    """Return the class of a bar, and words beside it."""
    right = {None: "", True: ", right", False: ", wrong"}[lane.correct]
    if lane.score is not None:
        return (
            ("best", f"{lane.score:.3f}{right}, kept") if lane.best else ("done", f"{lane.score:.3f}{right}")
        )
    estimate = "" if lane.estimate is None else f", estimate {lane.estimate:.3f}"
    if lane.dropped is not None:
        return "gone", f"dropped after step {lane.dropped + 1}{estimate}"
    return "run", f"runs{estimate}"
