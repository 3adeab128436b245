"""The tour of symmetry breaking: its numbers against the closed forms, its pictures, its notebook."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import turningpoint as tp
from turningpoint.experiments.symmetry import draw

NOTEBOOK = Path(__file__).parents[2] / "docs" / "symmetry.ipynb"


@pytest.fixture(scope="module")
def tour():
    return tp.symmetry("deltas?a=1", paths=40, steps=50)


def test_the_symmetry_breaks_where_the_curvature_passes_through_zero(tour):
    theta_sq = math.sqrt(2) - 1
    assert tour.breaking == pytest.approx(math.log(theta_sq / (1 - theta_sq)), abs=1e-9)
    c = tour.curvature
    np.testing.assert_array_equal(c.curvature > 1e-9, c.logsnr < tour.breaking - 1e-9)
    sq = 1 / (1 + np.exp(-c.logsnr))  # alpha^2; Raya & Ambrogioni 2023, eq. 8, per beta
    np.testing.assert_allclose(c.curvature, -(0.5 + (2 * sq - 1) / (sq - 1) ** 2), rtol=1e-8, atol=1e-10)


def test_fixed_points_solve_their_equation_and_part_at_the_breaking(tour):
    b = tour.branches
    sq = 1 / (1 + np.exp(-b.logsnr))
    theta = np.sqrt(sq)
    left = (sq + 1) * b.x + 2 * theta * np.tanh(b.x * theta / (sq - 1))  # eq. 10
    np.testing.assert_allclose(left, 0, atol=1e-9)
    count = b.groupby("logsnr").x.count()
    assert (count[count.index < tour.breaking - 1e-3] == 1).all()
    assert (count[count.index > tour.breaking + 1e-2] == 3).all()
    assert (b[b.x == 0].stable == (b[b.x == 0].logsnr < tour.breaking)).mean() > 0.98


def test_paths_end_on_the_data_and_do_not_cross_after_the_choice(tour):
    ends = tour.paths[tour.paths.direction == "backward"].groupby("path").end.first()
    assert set(ends) == {-1, 1}
    late = tour.paths[tour.paths.logsnr > 4]
    np.testing.assert_array_equal(np.sign(late.x), late.end)
    # early on, sides are mixed: the correlation is within 4 standard errors of what the clock leaves
    for way in ("forward", "backward"):
        early = tour.paths[(tour.paths.direction == way) & (tour.paths.t == 1.0)]
        assert abs(np.corrcoef(early.x, early.end)[0, 1]) < 4 / math.sqrt(len(early))


def test_one_gaussian_breaks_no_symmetry():
    tour = tp.symmetry("gaussians?dim=1&classes=1&std=1", paths=3, steps=5)
    assert math.isnan(tour.breaking)
    assert tour.branches.groupby("logsnr").x.count().eq(1).all()


def test_other_models_are_refused(refuses):
    with refuses("items of shape \\(1, 28, 28\\)"):
        tp.symmetry("digits")


def test_pictures_are_saved_with_their_tables(tour, tmp_path):
    files = draw(tour, tmp_path)
    assert sorted(f.suffix for f in files) == [".csv", ".csv", ".pdf", ".pdf", ".svg", ".svg"]
    assert set(pd.read_csv(tmp_path / "symmetry-diagrams.csv").panel) == {
        "potential",
        "curvature",
        "branches",
    }
    assert len(pd.read_csv(tmp_path / "symmetry-trajectories.csv")) == len(tour.paths)


def test_the_notebook_is_executed_and_computes_nothing_itself():
    cells = [c for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]
    pictures = 0
    space = {}
    for cell in cells:
        source = "".join(line for line in "".join(cell["source"]).splitlines(True) if line[0] != "%")
        assert cell["execution_count"], "run: make notebook"
        pictures += any("image/png" in out.get("data", {}) for out in cell["outputs"])
        assert "numpy" not in source
        assert "import torch" not in source
        quick = source.replace("paths=60, steps=200", "paths=4, steps=10").replace("items=400", "items=8")
        exec(quick.replace("(model, 400", "(model, 8").replace('"steps": 100', '"steps": 10'), space)
    assert pictures == 3
