"""Charts of the report as inline SVG, without scripts, fonts or further files.

Colours are CSS classes ``s0``, ``s1``, ... of the page (one a series, light and dark); each series also has a dash and a
marker of its own, for readers who cannot tell the colours apart. Every text is escaped.

matplotlib is not used here: its SVG takes 34 kB and 0.15 s per chart, this one 4 to 13 kB and 1 ms (a report with 13 charts would
double to 0.8 MB), and it supports neither the page's light and dark colours nor tooltips.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup, escape

WIDTH = 460
SERIES = 6  # classes that the page defines; more series share them in turn
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 4", "12 4")
_MAX_POINTS = 240

Line = tuple[Sequence[float], Sequence[float]]


def bars(
    groups: Mapping[str, Mapping[str, Mapping[str, Any] | None]], series: Sequence[str], marks: Mapping[str, float]
) -> Markup:
    """Horizontal bars of estimates in [0, 1] with their 95% intervals; ``marks`` draws one tick per group (majority class)."""
    label_width, bar, gap, top = 128, 11, 12, 8
    left, right = label_width + 8, WIDTH - 44
    height = top + sum(len(series) * bar + gap for _ in groups) + 26

    def x_of(value: float) -> float:
        return left + (right - left) * min(max(value, 0.0), 1.0)

    parts, y = [], float(top)
    bottom = height - 26
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = x_of(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for group, estimates in groups.items():
        block = len(series) * bar
        parts.append(
            f'<text x="{label_width}" y="{y + block / 2 + 4:.1f}" text-anchor="end">{escape(_shorten(group, 18))}</text>'
        )
        for index, name in enumerate(series):
            estimate = estimates.get(name) or {}
            value, interval = estimate.get("value"), estimate.get("ci95")
            if value is None:
                continue
            middle = y + index * bar + bar / 2
            title = escape(f"{group}, {name}: {value:.3f} (n = {estimate['n']})")
            parts.append(
                f'<rect class="s{index % SERIES} fill" x="{left}" y="{middle - bar / 2 + 1:.1f}" '
                f'width="{x_of(value) - left:.1f}" height="{bar - 2}"><title>{title}</title></rect>'
            )
            end = value  # the number stands to the right of the bar or of its whisker
            if interval:
                low, end = x_of(interval[0]), interval[1]
                parts.append(f'<path class="whisker" d="M{low:.1f} {middle:.1f}H{x_of(end):.1f}"/>')
            parts.append(f'<text class="tick" x="{x_of(end) + 5:.1f}" y="{middle + 4:.1f}">{value:.2f}</text>')
        if (mark := marks.get(group)) is not None:
            x = x_of(mark)
            parts.append(
                f'<path class="mark" d="M{x:.1f} {y - 2:.1f}V{y + block + 2:.1f}"><title>majority class {mark:.2f}</title></path>'
            )
        y += block + gap
    return _svg(height, "Accuracy by family", parts)


def effects(title: str, rows: Mapping[str, Mapping[str, Any]], margin: float) -> Markup:
    """Paired effects as points with their 95% intervals about a line at 0; a dashed line at ``margin``. Empty without values."""
    shown = {name: one for name, one in rows.items() if one["value"] is not None}
    if not shown:
        return Markup("")
    ends = [end for one in shown.values() for end in (one["ci95"] or (one["value"],))]
    ticks = _ticks(min(0.0, *ends), max(margin, *ends), 5)
    left, right, top, step = 150, WIDTH - 20, 30, 26
    bottom = top + step * len(shown)

    def x_of(value: float) -> float:
        return left + (right - left) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    parts = [f'<text class="title" x="8" y="16">{escape(title)}</text>']
    for tick in ticks:
        x = x_of(tick)
        parts.append(
            f'<line class="{"axis" if tick == 0 else "grid"}" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>'
        )
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{_tick_text(tick)}</text>')
    at = f"{x_of(margin):.1f}"
    parts.append(f'<path class="mark" d="M{at} {top}V{bottom}"><title>margin {margin:g}</title></path>')
    for index, (name, one) in enumerate(shown.items()):
        y = top + step * (index + 0.5)
        parts.append(f'<text x="{left - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(_shorten(name, 21))}</text>')
        if one["ci95"]:
            low, high = map(x_of, one["ci95"])
            parts.append(f'<path class="whisker" d="M{low:.1f} {y:.1f}H{high:.1f}"/>')
        text = escape(f"{name}: {one['value']:+.3f} (n = {one['n']})")
        parts.append(
            f'<circle class="s1 fill" cx="{x_of(one["value"]):.1f}" cy="{y:.1f}" r="4.5"><title>{text}</title></circle>'
        )
    return _svg(bottom + 26, title, parts)


def lines(title: str, series: Mapping[str, Line], x_label: str, *, colours: Mapping[str, int] | None = None) -> Markup:
    """Curves of (x, y) over a shared axis; noisy ones (over 40 points) get their running mean on top. Empty without points."""
    drawn = {name: _thin(xs, ys) for name, (xs, ys) in series.items() if len(xs) > 0}
    if not drawn:
        return Markup("")
    height, left, right, top, bottom = 236, 52, WIDTH - 12, 30, 190
    x_ticks = _ticks(min(min(xs) for xs, _ in drawn.values()), max(max(xs) for xs, _ in drawn.values()), 5, whole=True)
    y_low, y_high = (pick(pick(ys) for _, ys in drawn.values()) for pick in (min, max))
    if 0 < y_low < 0.6 * y_high:
        y_low = 0.0  # the axis starts at zero unless that would flatten the curve
    y_ticks = _ticks(y_low, y_high, 4)
    x_first, x_last = min(min(xs) for xs, _ in drawn.values()), max(max(xs) for xs, _ in drawn.values())
    x_ticks = [tick for tick in x_ticks if x_first <= tick <= x_last] or [x_first]

    def x_of(value: float) -> float:
        return left + (right - left) * (value - x_first) / ((x_last - x_first) or 1)

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * (value - y_ticks[0]) / ((y_ticks[-1] - y_ticks[0]) or 1)

    parts = [f'<text class="title" x="8" y="16">{escape(title)}</text>']
    for tick in y_ticks:
        parts.append(f'<line class="grid" x1="{left}" y1="{y_of(tick):.1f}" x2="{right}" y2="{y_of(tick):.1f}"/>')
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{y_of(tick) + 4:.1f}" text-anchor="end">{_tick_text(tick)}</text>'
        )
    for tick in x_ticks:
        parts.append(
            f'<text class="tick" x="{x_of(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{_tick_text(tick)}</text>'
        )
    parts.append(f'<text class="tick" x="{right}" y="{bottom + 34}" text-anchor="end">{escape(x_label)}</text>')
    for index, (name, (xs, ys)) in enumerate(drawn.items()):
        number = (colours or {}).get(name, index) % SERIES
        noisy = len(xs) > 40
        if noisy:
            parts.append(f'<path class="s{number} raw" d="{_path(xs, ys, x_of, y_of)}"/>')
        shown = _running_mean(ys, max(3, len(ys) // 12)) if noisy else ys
        dash = f' stroke-dasharray="{_DASHES[number]}"' if _DASHES[number] else ""
        parts.append(
            f'<path class="s{number} line"{dash} d="{_path(xs, shown, x_of, y_of)}"><title>{escape(name)}</title></path>'
        )
        if len(xs) == 1:
            parts.append(f'<circle class="s{number} fill" cx="{x_of(xs[0]):.1f}" cy="{y_of(ys[0]):.1f}" r="3"/>')
    if len(drawn) > 1:
        parts += _legend(drawn, colours or {}, left, bottom + 34)
    return _svg(height, title, parts)


def _legend(names: Mapping[str, Any], colours: Mapping[str, int], x: float, y: float) -> list[str]:
    parts = []
    for index, name in enumerate(names):
        number = colours.get(name, index) % SERIES
        dash = f' stroke-dasharray="{_DASHES[number]}"' if _DASHES[number] else ""
        text = _shorten(name, 16)
        parts.append(f'<path class="s{number} line"{dash} d="M{x:.0f} {y - 4:.0f}h22"/>')
        parts.append(f'<text class="tick" x="{x + 27:.0f}" y="{y:.0f}">{escape(text)}</text>')
        x += 40 + 6.6 * len(text)
    return parts


def _svg(height: float, title: str, parts: Sequence[str]) -> Markup:
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">'
    return Markup(head + "".join(parts) + "</svg>")  # every text in it is escaped, every number formatted


def _path(xs: Sequence[float], ys: Sequence[float], x_of: Any, y_of: Any) -> str:
    return "M" + "L".join(f"{x_of(x):.1f} {y_of(y):.1f}" for x, y in zip(xs, ys, strict=True))


def _thin(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """At most ``_MAX_POINTS`` points, each the mean of its neighbours."""
    size = math.ceil(len(xs) / _MAX_POINTS)
    if size == 1:
        return xs, ys
    starts = range(0, len(xs), size)
    return tuple([_mean(values[i : i + size]) for i in starts] for values in (xs, ys))  # type: ignore[return-value]


def _running_mean(ys: Sequence[float], window: int) -> list[float]:
    return [_mean(ys[max(0, i - window // 2) : i + window // 2 + 1]) for i in range(len(ys))]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """Round numbers from at or below ``low`` to at or above ``high``, about ``count`` steps."""
    if high - low < 1e-12:
        pad = abs(high) * 0.1 or 1.0
        low, high = (low - pad, high + pad) if low != 0 else (0.0, 1.0)
    raw = (high - low) / count
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(index * step, 10) for index in range(first, last + 1)]
    assert all(a < b for a, b in pairwise(ticks))
    return ticks


def _tick_text(value: float) -> str:
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e5 else f"{value:.3g}"


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
