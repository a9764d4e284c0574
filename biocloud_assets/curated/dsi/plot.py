"""The plot of a publication: detections by day and taxon."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import date
from io import BytesIO

_COLOURS = "tab20"


def detections_by_day(detections: Mapping[str, Mapping[str, int]], title: str) -> bytes:
    """A PNG image with a bar for each day: the number of observations, by taxon.

    Args:
        detections: for each taxon and each day, `yyyy-mm-dd`, the number of observations, as `Publication` has them.
        title: the title of the plot.

    Returns:
        the bytes of the PNG image, 990 by 440 pixels.
    """
    from matplotlib import rc_context

    # A name is any text: it may have dollar signs that are no formula, and characters that the font draws as boxes.
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        return _draw(detections, title)


def _draw(detections: Mapping[str, Mapping[str, int]], title: str) -> bytes:
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a screen
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    below: dict[str, int] = {}
    x: dict[str, float] = {day: date2num(date.fromisoformat(day)) for days in detections.values() for day in days}
    for number, (name, days) in enumerate(detections.items()):
        axes.bar(
            [x[day] for day in days],
            list(days.values()),
            bottom=[below.get(day, 0) for day in days],
            color=colormaps[_COLOURS](number % 20),
            label=name,
        )
        below |= {day: below.get(day, 0) + count for day, count in days.items()}
    axes.set(title=title, ylabel="observations")
    if below:
        locator = AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    else:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no observations with a date", transform=axes.transAxes, ha="center")
    image = BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()
