"""The notebooks of the documentation: as they should be kept, and executed from top to bottom."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SHOWN = {"first-run": "digits-domains", "own-method": "Pulled", "own-data": "ditto"}
"""What the results of each must have in them."""


def test_there_are_three_and_the_site_has_them():
    assert {path.stem for path in NOTEBOOKS} == set(SHOWN)
    site = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert all(f"notebooks/{path.name}" in site for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_results_are_kept_in_the_source(path):
    """They come from the run that the site is built with, so that none is of another version."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.xdist_group("notebooks")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "0")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # raises what a cell raises
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    pages = "".join(out.get("data", {}).get("text/html", "") for out in outputs)
    assert SHOWN[path.stem] in pages
    if path.stem == "first-run":
        [bar] = [out for out in outputs if "<progress" in out.get("data", {}).get("text/html", "")]
        assert 'value="10"' in bar.data["text/html"]  # one line, replaced until the end
        assert bar.data["text/plain"].startswith("10 of 10 rounds, ")
        assert sum("image/png" in out.get("data", {}) for out in outputs) >= 2
    assert [out.text for out in outputs if out.get("name") == "stderr"] == []


def test_links_of_notebooks_lead_to_pages_of_the_site():
    import importlib.util
    from types import SimpleNamespace

    spec = importlib.util.spec_from_file_location("links", ROOT / "docs" / "notebook_links.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    urls = {"notebooks/b.ipynb": "notebooks/b/", "ditto.md": "ditto/"}
    page = SimpleNamespace(file=SimpleNamespace(src_uri="notebooks/a.ipynb"), url="notebooks/a/")
    files = SimpleNamespace(
        get_file_from_path=lambda path: SimpleNamespace(url=urls[path]) if path in urls else None
    )
    html = '<a href="b.ipynb">b</a><a href="../ditto.md#x">d</a><a href="https://w.org/r.md">w</a>'
    assert hook.on_page_content(html, page, None, files) == (
        '<a href="../b/">b</a><a href="../../ditto/#x">d</a><a href="https://w.org/r.md">w</a>'
    )
    with pytest.raises(Exception, match=r"c\.md is not there"):
        hook.on_page_content('<a href="c.md">c</a>', page, None, files)
