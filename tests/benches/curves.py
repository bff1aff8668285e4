"""Draws a curve as plain SVG that reads well on light and on dark pages."""
import html
import math
import statistics

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 320, 70, 30, 50, 60
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 } .title { font-weight: 600; font-size: 15px } .number { font-weight: 600 }
  .grid { stroke: #8c959f; stroke-opacity: .35 } .curve { fill: none; stroke: #0969da; stroke-width: 2.5 }
  .median { fill: #0969da } .run { fill: none; stroke: #0969da; stroke-opacity: .6 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .curve { stroke: #58a6ff } .median { fill: #58a6ff } .run { stroke: #58a6ff }
  }
"""


def nice(most):
    """A round step that divides 0 to `most` into four or five."""
    rough = most / 4
    unit = 10 ** math.floor(math.log10(rough))
    return next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)


def chart(title, axis, samples):
    """`samples`: (label, values of its runs) from left to right. Dots are runs, the curve goes through their medians."""
    most = max(max(values) for _, values in samples)
    step = nice(most)
    top = step * math.ceil(most / step)
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    across = lambda place: LEFT + inner_width * (place + 0.5) / len(samples)
    up = lambda value: TOP + inner_height * (1 - value / top)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">',
             f"<style>{STYLE}</style>", f'<text class="title" x="{LEFT}" y="24">{html.escape(title)}</text>']
    for line in range(round(top / step) + 1):
        value = line * step
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(value):.1f}" y2="{up(value):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{up(value) + 4:.1f}" text-anchor="end">{value:,.10g}</text>')
    medians = [statistics.median(values) for _, values in samples]
    path = " ".join(f"{across(place):.1f},{up(median):.1f}" for place, median in enumerate(medians))
    parts.append(f'<polyline class="curve" points="{path}"/>')
    for place, (label, values) in enumerate(samples):
        parts += [f'<circle class="run" cx="{across(place):.1f}" cy="{up(value):.1f}" r="3"/>' for value in values]
        median = medians[place]
        number = f"{median:,.0f}" if median >= 100 else f"{median:.2f}"
        parts.append(f'<circle class="median" cx="{across(place):.1f}" cy="{up(median):.1f}" r="4.5"/>')
        parts.append(f'<text class="number" x="{across(place) + 9:.1f}" y="{up(median) - 8:.1f}">{number}</text>')
        parts.append(f'<text x="{across(place):.1f}" y="{HEIGHT - BOTTOM + 22}" text-anchor="middle">{html.escape(label)}</text>')
    parts.append(f'<text x="{LEFT + inner_width / 2:.1f}" y="{HEIGHT - 14}" text-anchor="middle">{html.escape(axis)}</text>')
    return "\n".join([*parts, "</svg>", ""])
