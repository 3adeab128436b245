"""The papers that a run cites: of what was done in it, once each, and of nothing else."""

from __future__ import annotations

import turningpoint as tp
from turningpoint.citations import PAPERS
from turningpoint.diffusion.sampler import SAMPLERS
from turningpoint.measures import MEASURES

RUNS = ("uturn", "clone", "trace", "patch")
SETTINGS = ("guidance", "activations")


def cited(run, paper: str) -> bool:
    return sum(paper in one for one in run.papers()) == 1


def test_papers_are_of_what_there_is():
    assert set(PAPERS) <= {*RUNS, *SETTINGS, *SAMPLERS.names(), *MEASURES.names()}
    assert all(len(set(papers)) == len(papers) for papers in PAPERS.values())


def test_a_trace_cites_its_measures_and_its_layers():
    settings = {"steps": 3, "progress": None}
    run = tp.trace("digits", 2, measures=["frequency", "structure"], **settings)
    assert cited(run, "2303.02490")  # of trace and of gain
    assert cited(run, "Canny")
    assert not cited(run, "Hoyer")
    assert not cited(run, "Haralick")
    looked = tp.trace("digits", 2, measures="texture", activations="mid_block", **settings)
    assert all(cited(looked, author) for author in ("Haralick", "Hoyer", "Roy & Vetterli", "Benjamini"))
    assert not cited(looked, "Canny")
