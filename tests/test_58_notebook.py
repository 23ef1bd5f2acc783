"""The notebook runs from its first cell to its last on what a run published, and maps what the run mapped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import rasterio
from command_line import Run
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "flows" / "notebooks" / "first_map.ipynb"
PROBE = """
import json
np.save({target!r}, classes)
print(json.dumps({{
    "cube": chosen.id, "names": list(names), "shape": list(shape), "link": client.dashboard_link,
    "areas": areas["area_ha"].to_dict(), "confidence": [float(np.nanmin(confidence)), float(np.nanmax(confidence))],
    "features": list(features.shape), "shares": list(components.shares),
    "lazy": lazy["data"].chunks is not None, "workers": workers,
}}))
"""


def notebook() -> Any:
    return nbformat.read(PATH, as_version=4)


def test_it_is_committed_clean() -> None:
    """No outputs, a kernel with name and language, a caption first, and the parameters in the first code cell."""
    found = notebook()
    nbformat.validate(found)
    assert found.metadata.kernelspec.name == "python3"
    assert found.metadata.kernelspec.language == "python"
    code = [cell for cell in found.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert found.cells[0].source.startswith("# ")
    assert code[0].metadata.tags == ["parameters"]


@pytest.fixture(scope="module")
def executed(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any], Any]:
    """The notebook after all its cells ran, what a probing cell says of its variables, and its map (y, x)."""
    target = tmp_path_factory.mktemp("notebook") / "classes.npy"
    found = notebook()
    probe = nbformat.v4.new_code_cell(PROBE.format(target=str(target)))
    count = 'workers = len(client.scheduler_info()["workers"])'
    found.cells.insert(len(found.cells) - 1, nbformat.v4.new_code_cell(count))
    found.cells.insert(len(found.cells) - 1, probe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RINGMOE_HOME", str(small_run.home))
        patch.setenv("PREFECT_HOME", str(target.parent / "prefect"))
        here = {"metadata": {"path": str(target.parent)}}
        client = NotebookClient(found, timeout=900, startup_timeout=300, resources=here)
        client.execute()
    said = json.loads("".join(o.text for o in probe.outputs if o.get("name") == "stdout"))
    return found, said, np.load(target)


def test_it_makes_a_map_of_known_classes(executed: tuple[Any, dict[str, Any], Any], small_run: Run) -> None:
    """The map has the cube's shape, only classes of the legend, and their areas add up to the pixels mapped."""
    _, said, classes = executed
    assert classes.shape == tuple(said["shape"]) == (256, 256)
    assert set(np.unique(classes)) <= set(range(len(said["names"]) + 1))
    assert len(np.unique(classes)) > 2
    truth = small_run.home / "sandbox" / "truth" / "east"
    assert truth.exists()
    assert {"water", "grassland", "built-up"} <= set(said["names"])
    assert sum(said["areas"].values()) == pytest.approx(np.count_nonzero(classes) * 0.01, abs=0.1)
    assert said["features"] == [3, 64, 64]
    assert 0.1 < sum(said["shares"]) <= 1
    assert 0 < said["confidence"][0] <= said["confidence"][1] <= 1


def test_its_map_is_the_published_one(executed: tuple[Any, dict[str, Any], Any], small_run: Run) -> None:
    """By the same steps the notebook comes to the classes that the run published for the same cube."""
    _, said, classes = executed
    (path,) = small_run.home.glob("catalog/maps/*/*/classes.tif")
    with rasterio.open(path) as source:
        published = source.read(1)
    assert "_32633_" in said["cube"]
    both = (classes > 0) & (published > 0)
    assert both.mean() > 0.8
    assert (classes == published)[both].mean() > 0.99


def test_it_computes_on_its_cluster_and_shows_what_it_says(executed: tuple[Any, dict[str, Any], Any]) -> None:
    """The composite is lazy until the two workers compute it; pictures and tables are there, and no error."""
    found, said, _ = executed
    assert said["lazy"]
    assert said["workers"] == 2
    assert said["link"].startswith("http://127.0.0.1:")
    outputs = [o for cell in found.cells if cell.cell_type == "code" for o in cell.outputs]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 4
    assert sum("text/html" in o.get("data", {}) for o in outputs) >= 4
    assert not [o for o in outputs if o.output_type == "error"]
