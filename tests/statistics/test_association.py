"""Associations against SciPy, a planted relation and shuffled data; permutations against their definition."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest, false_discovery_control, pearsonr, rankdata, spearmanr, ttest_1samp

from turningpoint.statistics import association as module
from turningpoint.statistics.association import association
from turningpoint.statistics.paired import difference

LAYERS, SUMMARIES = ("down", "mid", "up"), ("magnitude", "rank")


def noise(n=30, times=7, features=3, seed=0):
    """Activations and features that know nothing of each other, each dependent in itself.

    Activations are alike from step to step, from layer to layer and from summary to summary; features share most
    of their way.
    """
    rng = np.random.default_rng(seed)
    walk = rng.normal(size=(n, 1, 1, 1)) + rng.normal(size=(n, times, 1, 1)).cumsum(1)
    own = rng.normal(size=(n, times, len(LAYERS), len(SUMMARIES))).cumsum(2) / 3
    shared = rng.normal(size=(n, times)).cumsum(1)
    series = {f"f{k}": shared + 0.5 * rng.normal(size=(n, times)).cumsum(1) for k in range(features)}
    return np.exp(0.3 * (walk + own)), series, np.linspace(-6, 6, times)


def of(activations, features, logsnr, **settings):
    return association(activations, features, logsnr, LAYERS, SUMMARIES, **settings)


class TestCorrelations:
    @pytest.mark.parametrize(("method", "known"), [("spearman", spearmanr), ("pearson", pearsonr)])
    @pytest.mark.parametrize("ties", [False, True])
    def test_they_are_those_of_scipy_at_every_step(self, method, known, ties):
        a, f, logsnr = noise()
        if ties:
            a, f = a.round(), {name: values.round() for name, values in f.items()}
        found = of(a, f, logsnr, windows=None, method=method, permutations=9)
        assert found.r.shape == (6, 3, 2, 3)
        assert found.steps.tolist() == [[s, s + 1] for s in range(6)]
        np.testing.assert_array_equal(found.logsnr, logsnr[:-1])
        for s, layer, summary, k in np.ndindex(found.r.shape):
            rise = f[f"f{k}"][:, s + 1] - f[f"f{k}"][:, s]
            expected = known(a[:, s, layer, summary], rise).statistic
            assert found.r[s, layer, summary, k] == pytest.approx(expected, abs=1e-12)

    def test_windows_hold_mean_activations_and_whole_increments(self):
        a, f, logsnr = noise(times=9)
        found = of(a, f, logsnr, windows=3, permutations=9)
        assert found.steps.tolist() == [[0, 3], [3, 6], [6, 8]]
        np.testing.assert_allclose(found.logsnr, [logsnr[0:3].mean(), logsnr[3:6].mean(), logsnr[6:8].mean()])
        expected = spearmanr(a[:, 6:8, 1, 0].mean(1), f["f2"][:, 8] - f["f2"][:, 6]).statistic
        assert found.r[2, 1, 0, 2] == pytest.approx(expected, abs=1e-12)

    def test_the_last_activations_and_open_ends_of_the_clock_do_not_matter(self):
        a, f, logsnr = noise()
        logsnr[[0, -1]] = -math.inf, math.inf
        with_ends = of(a, f, logsnr, windows=3, permutations=9)
        a[:, -1] = np.nan
        without = of(a, f, logsnr, windows=3, permutations=9)
        np.testing.assert_array_equal(with_ends.r, without.r)
        assert with_ends.logsnr[0] == logsnr[1]

    def test_a_planted_relation_is_found_where_it_is(self):
        _, f, logsnr = noise(n=60, times=9, seed=3)
        a = np.random.default_rng(1).normal(size=(60, 9, 3, 2))
        f["planted"] = np.random.default_rng(2).normal(size=(60, 9)).cumsum(1)
        f["planted"][:, 6:] -= 3 * a[:, 5, 1, 0][:, None]
        found = of(a, f, logsnr, windows=None)
        table = found.table()
        best = table.iloc[table["p"].argmin()]
        assert best[["layer", "summary", "feature", "step", "until"]].tolist() == [
            "mid", "magnitude", "planted", 5, 6,
        ]  # fmt: skip
        assert best["logsnr"] == logsnr[5]
        assert best["r"] < -0.8
        assert best["significant"]
        assert best["family"] == 1 / (found.permutations + 1)
        assert not table[table["feature"] != "planted"]["significant"].any()
        increasing = of(a, {"planted": -f["planted"]}, logsnr, windows=None).table()
        assert increasing.loc[increasing["r"].abs().argmax(), "r"] == pytest.approx(-best["r"])

    def test_the_table_names_every_pair_in_order(self):
        found = of(*noise(features=2), permutations=9)
        table = found.table()
        pairs = itertools.product(LAYERS, SUMMARIES, ("f0", "f1"))
        assert list(table[["layer", "summary", "feature"]].itertuples(index=False, name=None)) == list(pairs)
        np.testing.assert_array_equal(table["r"].abs(), np.abs(found.r).max(0).ravel())
        assert set(table["items"]) == {30}
        assert found.chance == table["family"].min()


class TestChance:
    def test_p_is_the_share_of_all_permutations(self):
        """Five items have 120 permutations: the sampled share is theirs within 4 standard errors, and one over."""
        rng = np.random.default_rng(4)
        a, f = rng.normal(size=(5, 3, 1, 1)), rng.normal(size=(5, 3))
        found = association(a, {"f": f}, np.arange(3.0), ["l"], ["s"], permutations=4000)
        rise = np.diff(f, axis=1)

        def largest(order):
            return max(abs(spearmanr(a[:, s, 0, 0], rise[list(order), s]).statistic) for s in range(2))

        all_of_them = [largest(order) for order in itertools.permutations(range(5))]
        share = np.mean(np.array(all_of_them) >= largest(range(5)) - 1e-9)
        assert 0.05 < share < 0.95
        assert found.p.item() == pytest.approx(
            share, abs=4 * math.sqrt(share * (1 - share) / 4000) + 1 / 4000
        )

    def test_the_corrections_are_their_definitions(self):
        """The step-down maximum written out pair by pair, from the same permutations."""
        a, f, logsnr = noise(n=12, times=4)
        f["driven"] = np.concatenate([np.zeros((12, 1)), a[:, :-1, 2, 0].cumsum(1)], 1)
        found = of(a, f, logsnr, windows=None, permutations=60, seed=7)
        drawn = np.argsort(np.random.default_rng(7).random((60, 12)), axis=1)
        rise = np.stack([np.diff(series, axis=1) for series in f.values()], 2)  # (N, W, F)
        first = rankdata(a[:, :-1].reshape(12, 3, -1), axis=0)

        def statistics(order):
            second = rankdata(rise[order], axis=0)
            r = [np.corrcoef(first[:, w].T, second[:, w].T)[:6, 6:] for w in range(3)]
            return np.abs(r).max(0).ravel()

        observed = statistics(np.arange(12))
        permuted = np.array([statistics(order) for order in drawn])
        order = np.argsort(-observed, kind="stable")
        family, running = np.empty(len(order)), 0.0
        for k, pair in enumerate(order):
            rest = permuted[:, order[k:]].max(1)
            running = max(running, (1 + (rest >= observed[pair] - 1e-9).sum()) / 61)
            family[pair] = running
        np.testing.assert_allclose(found.family.ravel(), family)
        p = (1 + (permuted >= observed - 1e-9).sum(0)) / 61
        np.testing.assert_allclose(found.p.ravel(), p)
        np.testing.assert_allclose(found.q.ravel(), false_discovery_control(p))

    def test_p_is_uniform_where_there_is_nothing(self):
        """Of 300 worlds: the share of p at most 0.05, 0.2 and 0.5, each within 4 standard errors."""
        p = np.array(
            [of(*noise(n=16, seed=s), windows=2, permutations=99, seed=s).p.ravel() for s in range(300)]
        )
        for level in (0.05, 0.2, 0.5):
            for pair in (0, 7, 17):
                off = abs((p[:, pair] <= level).mean() - level)
                assert off < 4 * math.sqrt(level * (1 - level) / 300)

    def test_on_shuffled_data_at_most_five_per_cent_call_anything(self):
        """200 shuffles of data that are full of associations; 4 standard errors above 5 % are 22."""
        a, f, logsnr = noise(n=24, times=9, seed=1)
        f["driven"] = 0.3 * f["f0"] + np.concatenate([np.zeros((24, 1)), a[:, :-1, 0, 0].cumsum(1)], 1)
        assert of(a, f, logsnr, windows=4, permutations=999).significant.sum() > 2
        rng = np.random.default_rng(0)
        called, uncorrected = 0, 0
        for seed in range(200):
            order = rng.permutation(24)
            shuffled = {name: series[order] for name, series in f.items()}
            found = of(a, shuffled, logsnr, windows=4, permutations=999, seed=seed)
            called += found.significant.any()
            uncorrected += (found.p <= 0.05).any()
        assert called <= 10 + 4 * math.sqrt(200 * 0.05 * 0.95)
        assert binomtest(int(uncorrected), 200, 0.05, alternative="greater").pvalue < 1e-6

    def test_what_is_there_is_mostly_found_and_little_else(self):
        """Of 12 pairs with correlations of about 0.6 among 60, with 64 items: most; false calls near 5 % of calls."""
        found, wrong, calls = [], 0, 0
        for seed in range(20):
            rng = np.random.default_rng(seed)
            a = rng.normal(size=(64, 6, 3, 2))
            rises = rng.normal(size=(64, 5, 10))
            rises[:, 2, :6] += 0.75 * a[:, 2].reshape(64, 6)
            rises[:, 3, :6] += 0.75 * a[:, 3].reshape(64, 6)[:, ::-1]
            series = np.concatenate([np.zeros((64, 1, 10)), rises.cumsum(1)], 1)
            result = of(a, {str(k): series[:, :, k] for k in range(10)}, np.arange(6.0), seed=seed)
            pairs = result.significant.reshape(6, 10)
            true = np.zeros((6, 10), bool)
            true[np.arange(6), np.arange(6)] = true[np.arange(6), 5 - np.arange(6)] = True
            found.append(pairs[true].mean())
            wrong, calls = wrong + (pairs & ~true).sum(), calls + pairs.sum()
        assert np.mean(found) > 0.8
        assert wrong / calls < 0.05 + 4 * math.sqrt(0.05 / calls)

    def test_a_true_pair_alone_is_called_though_q_cannot_say_it(self):
        a, f, logsnr = noise(n=40, times=4, features=8)
        a, rng = np.random.default_rng(5).normal(size=a.shape), np.random.default_rng(6)
        f = {name: rng.normal(size=(40, 4)) for name in f}
        f["f0"][:, 2:] += 4 * a[:, 1, 1, 1][:, None]
        found = of(a, f, logsnr, windows=None, permutations=99)
        assert found.q[1, 1, 0] > 0.05
        assert np.argwhere(found.significant).tolist() == [[1, 1, 0]]

    def test_the_number_of_permutations(self):
        assert of(*noise()).permutations == module.LEAST
        found = of(*noise(features=60, n=8), windows=2)
        assert found.permutations == 360 * 20 - 1
        assert found.p.min() >= 1 / 7200

    @pytest.mark.parametrize("block", [1, 5000])
    @pytest.mark.parametrize("groups", [None, np.arange(30) % 3])
    def test_blocks_do_not_matter_and_seeds_do(self, monkeypatch, block, groups):
        world = noise()
        whole = of(*world, permutations=200, groups=groups)
        monkeypatch.setattr(module, "BLOCK", block)
        parts = of(*world, permutations=200, groups=groups)
        np.testing.assert_array_equal(whole.p, parts.p)
        np.testing.assert_array_equal(whole.family, parts.family)
        assert (whole.p != of(*world, permutations=200, groups=groups, seed=1).p).any()

    def test_ties_with_what_was_observed_count(self):
        """Two values each: of five marked items 0 to 5 meet a mark, and |r| of 0.2 or more is every permutation."""
        a = np.repeat([0.0, 1.0], 5)[:, None, None, None] * np.ones((10, 2, 1, 1))
        f = np.array([0, 1] * 5)[:, None] * np.array([0.0, 0.1])
        found = association(a, {"f": f}, np.arange(2.0), ["l"], ["s"])
        assert found.r.item() == pytest.approx(0.2)
        assert found.p.item() == 1


class TestGroups:
    def test_what_goes_through_the_class_alone_is_not_called(self):
        """In 20 worlds without another relation: 1 is called on average, 5 with 4 standard errors."""
        label, called = np.arange(60) % 3, 0
        for seed in range(20):
            rng = np.random.default_rng(seed)
            a = rng.normal(size=(60, 5, 3, 2)) + 3 * label[:, None, None, None]
            f = {"f": rng.normal(size=(60, 5)).cumsum(1) + 3 * label[:, None] * np.arange(5)}
            assert of(a, f, np.arange(5.0), permutations=199).significant.all()
            names = np.array(["cat", "dog", "hen"])[label]
            called += of(a, f, np.arange(5.0), permutations=199, groups=names).significant.any()
        assert called <= 1 + 4 * math.sqrt(0.95)

    def test_what_holds_within_each_class_is_found_at_any_level_of_it(self):
        rng = np.random.default_rng(1)
        label = np.arange(40) % 2
        a = rng.normal(size=(40, 3, 1, 1))
        f = np.zeros((40, 3))
        f[:, 2] = a[:, 1, 0, 0] - 100 * label
        found = association(a, {"f": f}, np.arange(3.0), ["l"], ["s"], groups=label)
        assert found.r[1].item() == pytest.approx(1)
        assert found.significant.all()

    def test_p_is_uniform_within_groups_too(self):
        label = np.array([0] * 9 + [1] * 6 + [2])
        p = []
        for seed in range(300):
            a, f, logsnr = noise(n=16, seed=seed)
            a = a + label[:, None, None, None]
            p.append(of(a, f, logsnr, windows=2, permutations=99, groups=label, seed=seed).p[1, 1, 1])
        assert abs(np.mean(np.array(p) <= 0.2) - 0.2) < 4 * math.sqrt(0.16 / 300)

    def test_one_group_is_no_group(self):
        world = noise()
        alone, grouped = of(*world, permutations=99), of(*world, permutations=99, groups=["a"] * 30)
        np.testing.assert_allclose(alone.r, grouped.r, atol=1e-12)
        np.testing.assert_array_equal(alone.p, grouped.p)


class TestWhatIsMissing:
    def test_columns_that_are_missing_or_constant_say_nothing_and_change_nothing(self):
        a, f, logsnr = noise()
        clean = of(a, f, logsnr, windows=3, permutations=99)
        wide = np.concatenate([a, np.full((*a.shape[:3], 1), np.nan), np.full((*a.shape[:3], 1), 0.1)], 3)
        f |= {"still": np.full((30, 7), 0.3), "none": np.full((30, 7), np.nan)}
        found = association(
            wide, f, logsnr, LAYERS, (*SUMMARIES, "entropy", "same"), windows=3, permutations=99
        )
        np.testing.assert_array_equal(found.p[:, :2, :3], clean.p)
        np.testing.assert_array_equal(found.family[:, :2, :3], clean.family)
        assert np.isnan(found.r[:, :, 2:]).all()
        assert np.isnan(found.r[..., 3:]).all()
        assert np.isnan(found.p[:, :, 3:]).all()
        assert not found.significant[:, 2:].any()
        table = found.table()
        nothing = table[table["feature"] == "still"]
        assert set(nothing["step"]) == {-1}
        assert nothing[["r", "p", "q", "family", "logsnr"]].isna().all().all()

    @pytest.mark.parametrize("method", ["spearman", "pearson"])
    def test_a_constant_is_one_at_any_scale(self, method):
        a, f, logsnr = noise()
        a[:, :, 0, 0] = np.float32(1e6) / 3
        found = of(a, f, logsnr, method=method, permutations=9)
        assert np.isnan(found.r[:, 0, 0]).all()
        assert np.isfinite(found.r[:, 1:]).all()

    def test_a_first_step_without_a_step_before(self):
        a, f, logsnr = noise()
        a[:, 0, :, 1] = np.nan
        found = of(a, f, logsnr, windows=3, permutations=9)
        expected = spearmanr(a[:, 1, 0, 1], f["f0"][:, 2] - f["f0"][:, 0]).statistic
        assert found.r[0, 0, 1, 0] == pytest.approx(expected, abs=1e-12)
        alone = of(a, f, logsnr, windows=None, permutations=9)
        assert np.isnan(alone.r[0, :, 1]).all()
        assert (alone.strongest[:, 1] > 0).all()

    def test_items_without_a_reading_stand_in_the_middle(self):
        a, f, logsnr = noise()
        f["f0"][:10] = np.nan
        found = of(a, f, logsnr, windows=None, permutations=99)
        assert set(found.items[..., 0].ravel()) == {20}
        rise = f["f0"][10:, 1] - f["f0"][10:, 0]
        scores = rankdata(rise) - 10.5
        first = rankdata(a[:, 0, 0, 0]) - 15.5
        expected = first[10:] @ scores / (np.linalg.norm(first) * np.linalg.norm(scores))
        assert found.r[0, 0, 0, 0] == pytest.approx(expected, abs=1e-12)
        f["f0"][:26] = np.nan
        assert np.isnan(of(a, f, logsnr, permutations=9).r[..., 0]).all()

    def test_nothing_at_all(self):
        a, f, logsnr = noise()
        found = of(np.full_like(a, np.nan), f, logsnr)
        assert not found.significant.any()
        assert math.isnan(found.chance)
        assert len(found.table()) == 18


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"activations": np.zeros((30, 7, 3))}, r"activations has shape \(30, 7, 3\)"),
        ({"activations": np.zeros((30, 6, 3, 2))}, r"accepted: \(7, 3, 2\) after the items"),
        ({"activations": np.zeros((4, 7, 3, 2))}, "activations holds 4 items; accepted: 5 or more"),
        ({"activations": np.zeros((30, 1, 3, 2)), "logsnr": np.zeros(1)}, "activations holds 1 times"),
        ({"features": {}}, "features is empty"),
        ({"features": {"edges": np.zeros((30, 6))}}, r"feature 'edges' has shape \(30, 6\)"),
        ({"method": "kendall"}, "method is 'kendall'; accepted: spearman, pearson"),
        ({"windows": 0}, "windows is 0; accepted: 1 or more"),
        ({"permutations": 0}, "permutations is 0"),
        ({"level": 1.0}, "level is 1.0; accepted: between 0 and 1"),
        ({"groups": [1, 2]}, r"groups has shape \(2,\); accepted: \(30,\)"),
        ({"groups": np.arange(30)}, "groups leaves 0 items in groups of two or more"),
    ],
)
def test_what_cannot_be_used_is_refused(refuses, changed, sentence):
    a, f, logsnr = noise()
    given = {"activations": a, "features": f, "logsnr": logsnr} | changed
    with refuses(sentence):
        association(**given, layers=LAYERS, summaries=SUMMARIES)


class TestDifference:
    def test_it_is_the_paired_t_test_and_an_interval_of_the_mean(self):
        rng = np.random.default_rng(0)
        b = rng.normal(size=(50, 4, 3, 2)).cumsum(1)
        a = b + 0.3 * rng.normal(size=b.shape)
        a[:, 2, 1, 0] += 0.4
        table = difference(a, b, np.arange(4.0), LAYERS, SUMMARIES)
        assert len(table) == 24
        d = (a - b).transpose(2, 3, 1, 0).reshape(24, 50)
        np.testing.assert_allclose(table["difference"], d.mean(1), atol=1e-12)
        np.testing.assert_allclose(table["a"] - table["b"], d.mean(1), atol=1e-12)
        np.testing.assert_allclose(table["standardised"], d.mean(1) / d.std(1, ddof=1))
        np.testing.assert_allclose(table["p"], ttest_1samp(d, 0, axis=1).pvalue)
        np.testing.assert_allclose(table["q"], false_discovery_control(table["p"]))
        error = d.std(1, ddof=1) / math.sqrt(50)
        np.testing.assert_allclose(table["high"] - table["low"], 2 * 1.96 * error, rtol=0.2)
        called = table[table["significant"]]
        assert called[["layer", "summary", "step", "logsnr"]].values.tolist() == [
            ["mid", "magnitude", 2, 2.0]
        ]
        assert called["low"].item() < 0.4 < called["high"].item()

    def test_conditions_that_do_not_differ(self):
        """Of 200 tables of 24 rows without a difference at most 5 % and 4 standard errors call anything."""
        rng, called = np.random.default_rng(1), 0
        for _ in range(200):
            b = rng.normal(size=(12, 4, 3, 2)).cumsum(2)
            a = b + rng.normal(size=(12, 4, 1, 1)) + 0.5 * rng.normal(size=b.shape)
            called += difference(a, b, np.arange(4.0), LAYERS, SUMMARIES, samples=2)["significant"].any()
        assert called <= 22

    def test_missing_numbers_and_equal_ones(self):
        rng = np.random.default_rng(2)
        b = rng.normal(size=(9, 2, 3, 2))
        a = b + 1 + 0.1 * rng.normal(size=b.shape)
        a[:, 0, 0] = b[:, 0, 0]
        a[:, :, :, 1] = np.nan
        b[:4, 1, 2, 0] = np.nan
        table = difference(a, b, np.arange(2.0), LAYERS, SUMMARIES).set_index(["layer", "summary", "step"])
        same = table.loc[("down", "magnitude", 0)]
        assert same[["difference", "low", "high", "standardised", "p"]].tolist() == [0, 0, 0, 0, 1]
        assert not same["significant"]
        gone = table.xs("rank", level="summary")
        assert gone[["difference", "low", "high", "p", "q"]].isna().all().all()
        assert not gone["significant"].any()
        part = table.loc[("up", "magnitude", 1)]
        d = (a - b)[4:, 1, 2, 0]
        assert part["items"] == 5
        assert part["difference"] == pytest.approx(d.mean())
        assert part["p"] == pytest.approx(ttest_1samp(d, 0).pvalue)
        assert d.min() <= part["low"] <= part["high"] <= d.max()

    def test_blocks_of_columns_do_not_matter(self, monkeypatch):
        from turningpoint.statistics import paired

        rng = np.random.default_rng(3)
        a, b = rng.normal(size=(2, 8, 4, 3, 2))
        whole = difference(a, b, np.arange(4.0), LAYERS, SUMMARIES, samples=50)
        monkeypatch.setattr(paired, "BLOCK", 100)
        parts = difference(a, b, np.arange(4.0), LAYERS, SUMMARIES, samples=50)
        np.testing.assert_allclose(whole["low"], parts["low"])

    def test_what_cannot_be_used_is_refused(self, refuses):
        a = np.zeros((6, 4, 3, 2))
        with refuses(r"a and b have shapes \(6, 4, 3, 2\) and \(5, 4, 3, 2\); accepted: equal ones"):
            difference(a, a[:5], np.arange(4.0), LAYERS, SUMMARIES)
        with refuses(r"accepted: equal ones, with \(3, 3, 2\) after the items"):
            difference(a, a, np.arange(3.0), LAYERS, SUMMARIES)
        with refuses("a and b hold 4 items; accepted: 5 or more"):
            difference(a[:4], a[:4], np.arange(4.0), LAYERS, SUMMARIES)
