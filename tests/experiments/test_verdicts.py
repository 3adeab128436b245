"""Predictions against interventions, on tables made by hand."""

import numpy as np
import pandas as pd
import pytest

from turningpoint.experiments.verdicts import COLUMNS, summary_of_verdicts, verdicts

WINDOW = (-3.0, 0.0)


def _effects(**rows):
    """feature = (standardised, moved, lower end of moved, q)."""
    table = pd.DataFrame(
        [
            {
                "feature": name,
                "standardised": shift,
                "standardised_low": shift - 0.1,
                "standardised_high": shift + 0.1,
                "moved": moved,
                "moved_low": low,
                "moved_high": moved + 0.1,
                "q": q,
                "note": "",
            }
            for name, (shift, moved, low, q) in rows.items()
        ]
    )
    return table


def _association(*rows):
    columns = ("layer", "summary", "feature", "logsnr", "r", "q")
    return pd.DataFrame([dict(zip(columns, row, strict=True)) for row in rows])


NAN = float("nan")
EFFECTS = _effects(
    edges=(-0.8, 0.7, 0.6, 0.003),
    slant=(0.02, 0.05, 0.03, 0.7),
    hue=(NAN, 0.5, 0.4, NAN),
    mass=(0.0, 0.4, 0.3, 0.9),
    height=(0.1, 0.04, 0.02, 0.2),
)
TABLE = _association(
    ("mid", "magnitude", "edges", -5.0, 0.9, 0.001),
    ("mid", "rank", "edges", -1.0, 0.62, 0.01),
    ("mid.conv", "rank", "slant", 2.0, -0.5, 0.04),
    ("up", "rank", "hue", -1.0, 0.9, 0.001),
    ("mid", "rank", "height", -1.0, 0.3, 0.2),
    ("mid", "sparsity", "area", -1.0, 0.4, 0.01),
    ("mid", "sparsity", "dead", NAN, NAN, NAN),
    ("mid", "rank", "mass", -1.0, 0.1, 0.9),
)


def test_each_feature_gets_its_verdict_and_a_sentence():
    found = verdicts(EFFECTS, TABLE, ["mid"], WINDOW)
    assert tuple(found.columns) == COLUMNS
    assert dict(zip(found.feature, found.verdict, strict=True)) == {
        "edges": "predicted and changed",
        "slant": "predicted, not changed",
        "hue": "changed, not predicted",
        "mass": "changed, not predicted",
        "area": "predicted, not read",
    }
    assert found.feature.tolist() == ["edges", "slant", "hue", "mass", "area"]
    said = dict(zip(found.feature, found.sentence, strict=True))
    # the prediction inside the window is the one that is tested, though another is stronger
    assert said["edges"] == (
        "edges: predicted (r = 0.62 of mid's rank, inside the window), shifted by -0.80 sd [-0.90, -0.70], q = 0.003"
    )
    assert said["slant"] == (
        "slant: predicted (r = -0.50 of mid.conv's rank, outside the window), not changed (0.02 sd [-0.08, 0.12], "
        "q = 0.7)"
    )
    assert said["hue"] == "hue: not asked of the trace, moved 0.50 of the way to another image [0.40, 0.60]"
    assert said["mass"].startswith("mass: not predicted, moved")
    assert said["mass"].endswith("moved 0.40 of the way to another image [0.30, 0.50], without a shift")
    assert said["area"] == "area: predicted (r = 0.40 of mid's sparsity, inside the window), not read"
    words = summary_of_verdicts(found, EFFECTS, WINDOW)
    assert words.startswith(
        "Of 2 features that the layer predicts, 1 changed with it between log-SNR -3.00 and 0.00."
    )
    assert "2 changed without a prediction. 1 that it predicts were not read." in words
    assert words.endswith("moved 0.38 of the way to another image (median), the others 0.40.")


def test_the_window_may_come_in_either_order():
    pd.testing.assert_frame_equal(
        verdicts(EFFECTS, TABLE, ["mid"], WINDOW), verdicts(EFFECTS, TABLE, ["mid"], WINDOW[::-1])
    )


def test_only_what_the_table_calls_significant_is_a_prediction():
    table = TABLE.assign(significant=[False] * 5 + [True] + [False] * 2)
    found = verdicts(EFFECTS, table, ["mid"], WINDOW)
    assert found.verdict[found.feature == "edges"].item() == "changed, not predicted"
    assert found.feature[found.r.notna()].tolist() == ["area"]
    none = verdicts(EFFECTS.iloc[:0], table.assign(significant=False), ["mid"], WINDOW)
    assert none.empty
    assert "predicts none of the features" in summary_of_verdicts(none, EFFECTS, WINDOW)


def test_one_layer_needs_no_name_in_its_sentence_and_names_are_not_prefixes():
    found = verdicts(EFFECTS, TABLE[TABLE.layer != "mid.conv"], ["mid"], WINDOW)
    assert "of its rank, inside" in found.sentence[0]
    table = pd.concat([TABLE, _association(("middle", "rank", "height", -1.0, 0.9, 0.001))])
    assert "height" not in verdicts(EFFECTS, table, ["mid"], WINDOW).feature.tolist()


def test_what_cannot_be_told_says_so():
    effects = _effects(a=(NAN, NAN, NAN, NAN)).assign(note="it is the same in all clean images")
    found = verdicts(effects, _association(("mid", "rank", "a", -1.0, 0.5, 0.01)), ["mid"], WINDOW)
    assert found.verdict.tolist() == ["predicted, not changed"]
    assert found.sentence[0].endswith("not changed as far as can be told: it is the same in all clean images")
    effects = _effects(a=(NAN, NAN, NAN, 0.001))  # shifted, but from a value that all clean images share
    found = verdicts(effects, _association(("mid", "rank", "a", -1.0, 0.5, 0.01)), ["mid"], WINDOW)
    assert found.sentence[0].endswith("shifted, q = 0.001")


def test_tables_that_say_nothing_of_the_layer_are_refused(refuses):
    with refuses("layer is down, of which the trace's table says nothing; accepted: .* mid, mid.conv, up"):
        verdicts(EFFECTS, TABLE, ["down"], WINDOW)
    with refuses("association has no column 'q'"):
        verdicts(EFFECTS, TABLE.drop(columns="q"), ["mid"], WINDOW)


@pytest.mark.parametrize("infinite", [np.inf, -np.inf])
def test_predictions_at_infinite_log_snr_lie_in_a_window_that_reaches_there(infinite):
    table = _association(("mid", "rank", "edges", infinite, 0.5, 0.01))
    found = verdicts(EFFECTS, table, ["mid"], (0.0, infinite))
    assert found.inside[found.feature == "edges"].item()
