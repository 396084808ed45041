from __future__ import annotations

import re
from pathlib import Path

from pipelines.plots import page_template
from tests.support.project import dvc, toy_project

GRAPH = """
stages:
  train:
    cmd: cp seed loss.csv
    deps: [seed]
    outs: [loss.csv]
plots:
  - loss:
      x: step
      y:
        loss.csv: loss
"""


def test_plots_are_drawn_without_a_network(tmp_path: Path) -> None:
    (tmp_path / "seed").write_text("step,loss\n1,9.5\n2,8.5\n", encoding="utf-8")
    root = toy_project(tmp_path, GRAPH)
    (root / ".dvc" / "plots.html").write_text(page_template(), encoding="utf-8")
    dvc(root, "config", "--local", "plots.html_template", "plots.html")
    dvc(root, "repro")
    dvc(root, "plots", "show")
    page = (root / "dvc_plots" / "index.html").read_text(encoding="utf-8")
    assert "window.vegaEmbed=" in page
    assert re.search(r"vegaEmbed\('#\w+', spec\)", page)
    assert '"loss": "9.5"' in page
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page), "nothing is loaded from anywhere"


def test_the_scripts_do_not_end_their_own_element() -> None:
    """A `</script` inside the bundle, or a placeholder of DVC's, would break the page that DVC fills in."""
    template = page_template()
    assert template.count("</script") == 1
    for placeholder in ("{plot_divs}", "{refresh_tag}"):
        assert template.count(placeholder) == 1
