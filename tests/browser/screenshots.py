"""Renew the screenshots in docs/images: `uv run --group browser python -m tests.browser.screenshots`.

lineage.png   the global lineage
table.png     the page of a table
refused.png   the check that a refused delivery has failed
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from PIL import Image

from biocloud_assets.sample import BUNDLED
from tests.browser.ui import Ui, open_page
from tests.cli.biocloud import Biocloud, Dev
from tests.ingest.deliveries import record, write

FOLDER = Path(__file__).parents[2] / "docs" / "images"
_REFUSED = "2026-01-31-06:00:00"


def main() -> None:
    """Take all screenshots, with a new home in which the sample is ingested; then a delivery is refused."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, open_page() as page:
        biocloud = Biocloud(Path(home))
        biocloud("ingest", "--sample")
        dev = Dev(biocloud)
        ui = Ui(page, dev, biocloud)
        try:
            ui.open_lineage()
            ui.wait_for("PySpark", "100% filled", re.compile("Passed"))
            ui.page.screenshot(path=FOLDER / "lineage.png", clip={"x": 560, "y": 380, "width": 1780, "height": 1740})

            ui.page.set_viewport_size({"width": 1400, "height": 1000})
            ui.open("/assets/raw/dsi/analysis_group_result_prediction")
            ui.wait_for("Delta Lake", "probability", BUNDLED[-1])
            ui.page.screenshot(path=FOLDER / "table.png")

            repeated = [record("sensor", id="sensor-7"), record("sensor", id="sensor-7")]
            write(biocloud.landing, _REFUSED, algorithm=[record("algorithm", id=None)], sensor=repeated)
            biocloud("ingest", _REFUSED, code=1)
            ui.open("/assets/landing/dsi/algorithm?view=checks&checkDetail=contract")
            ui.wait_for("Failed", "violations")
            ui.page.screenshot(path=FOLDER / "refused.png")
        finally:
            dev.stop()
    for path in FOLDER.glob("*.png"):
        with Image.open(path) as image:  # a page has few colours: with a palette the file is half as large
            image.quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    main()
