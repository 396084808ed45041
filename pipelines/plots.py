"""The page template of `dvc plots show` with the Vega scripts inside: DVC's own page loads them from the internet.

`make setup` runs `python -m pipelines.plots .dvc/plots.html` and names that file in `.dvc/config.local`.
"""

from __future__ import annotations

import sys
from pathlib import Path

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>glm-rebuild: plots</title>
<style>body { font-family: sans-serif; margin: 2rem; } table { border-spacing: 15px; }</style>
<script>(() => {
@SCRIPTS@
})();</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""
_VEGA_LITE = "5.21"  # DVC writes charts in the schema of Vega-Lite 5


def page_template() -> str:
    """HTML that DVC fills in at `{plot_divs}`; it defines `vegaEmbed` and asks nothing of the network."""
    import vl_convert

    return _PAGE.replace("@SCRIPTS@", vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_VEGA_LITE))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page_template(), encoding="utf-8")
