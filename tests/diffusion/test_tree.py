"""Trees of a grammar and their posterior against enumeration of every derivation."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from turningpoint.diffusion import leaves
from turningpoint.diffusion.hierarchy import Hierarchy

TINY = [(3, 2, 2, 2), (3, 2, 2, 3), (2, 2, 2, 3), (3, 2, 3, 2), (4, 1, 2, 3)]


def derivations(grammar):
    """Every derivation: its latents, leaves first, and its probability."""
    found = [([np.array([root])], 1 / grammar.v) for root in range(grammar.v)]
    for level in reversed(range(grammar.L)):
        rules = grammar.rules[level].numpy()
        found = [
            ([np.concatenate([rules[a, j] for a, j in zip(latents[0], taken, strict=True)]), *latents],
             p / grammar.m ** len(taken))
            for latents, p in found
            for taken in itertools.product(range(grammar.m), repeat=len(latents[0]))
        ]  # fmt: skip
    return found


def posterior_by_enumeration(grammar, log_likelihood, root=None):
    """log-evidence and the marginals of every level from all derivations, for one tree (n, v)."""
    found = [
        (d, p * grammar.v if root is not None else p)
        for d, p in derivations(grammar)
        if root in (None, d[-1][0])
    ]
    place = np.arange(grammar.leaves)
    logs = np.array([np.log(p) + log_likelihood[place, d[0]].sum() for d, p in found])
    weight = np.exp(logs - logs.max())
    evidence = logs.max() + np.log(weight.sum())
    marginals = [np.zeros((len(level), grammar.v)) for level in found[0][0]]
    for (d, _), w in zip(found, weight / weight.sum(), strict=True):
        for level, symbols in enumerate(d):
            marginals[level][np.arange(len(symbols)), symbols] += w
    return evidence, marginals


@pytest.mark.parametrize("shape", TINY)
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 1.0, 10.0, 100.0]), root=st.none() | st.just(1)
)
def test_the_posterior_equals_enumeration(shape, seed, scale, root):
    grammar = Hierarchy.random(*shape, seed=seed)
    draw = np.random.default_rng(seed).normal(size=(2, grammar.leaves, grammar.v)) * scale
    told = None if root is None else torch.tensor([root, -1])
    posterior = grammar.posterior(torch.from_numpy(draw), told)
    marginals = posterior.marginals()
    for row, known in enumerate((root, None)):
        evidence, expected = posterior_by_enumeration(grammar, draw[row], known)
        assert posterior.evidence[row].item() == pytest.approx(evidence, rel=1e-10, abs=1e-10)
        for level in range(grammar.L + 1):
            np.testing.assert_allclose(marginals[level][row].numpy(), expected[level], rtol=0, atol=1e-10)
        np.testing.assert_allclose(posterior.log_root[row].exp().numpy(), expected[-1][0], rtol=0, atol=1e-10)


def test_the_marginals_of_leaves_are_the_gradient_of_the_evidence():
    """A tree too large to enumerate: d log Z / d log-likelihood, by automatic differentiation."""
    grammar = Hierarchy.random(8, 3, 2, 6, seed=3)
    generator = torch.Generator().manual_seed(0)
    evidence = 3 * torch.randn(3, grammar.leaves, 8, dtype=torch.float64, generator=generator)
    evidence.requires_grad_()
    posterior = grammar.posterior(evidence)
    (gradient,) = torch.autograd.grad(posterior.evidence.sum(), evidence)
    torch.testing.assert_close(posterior.marginals()[0].detach(), gradient, rtol=0, atol=1e-12)
    for level in posterior.marginals():
        torch.testing.assert_close(level.sum(-1), torch.ones_like(level[..., 0]), rtol=0, atol=1e-12)


def test_draws_have_the_joint_law_of_the_posterior():
    """Frequencies of all 24 derivations in 40,000 draws, each within 4 standard errors."""
    grammar = Hierarchy.random(3, 2, 2, 2, seed=5)
    evidence = np.random.default_rng(2).normal(size=(grammar.leaves, 3))
    count = 40_000
    posterior = grammar.posterior(torch.from_numpy(evidence).expand(count, -1, -1))
    drawn = torch.cat(posterior.draw(torch.Generator().manual_seed(1)), 1).numpy()
    found = derivations(grammar)
    place = np.arange(grammar.leaves)
    weight = np.array([p * np.exp(evidence[place, d[0]].sum()) for d, p in found])
    weight /= weight.sum()
    total = 0
    for (latents, _), p in zip(found, weight, strict=True):
        frequency = (drawn == np.concatenate(latents)).all(1).mean()
        assert abs(frequency - p) < 4 * np.sqrt(p * (1 - p) / count)
        total += frequency
    assert total == pytest.approx(1)


def test_samples_have_the_law_without_evidence():
    grammar = Hierarchy.random(4, 3, 2, 3, seed=1)
    count = 20_000
    latents = grammar.sample(count, torch.Generator().manual_seed(0))
    prior = grammar.posterior(torch.zeros(1, grammar.leaves, 4, dtype=torch.float64)).marginals()
    for drawn, p in zip(latents, prior, strict=True):
        frequency = torch.nn.functional.one_hot(drawn, 4).double().mean(0)
        assert ((frequency - p[0]).abs() <= 4 * (p[0] * (1 - p[0]) / count).sqrt()).all()


@given(
    seed=st.integers(0, 10_000), shape=st.sampled_from([*TINY, (16, 4, 2, 4), (3, 9, 3, 2), (5, 25, 3, 1)])
)
@settings(max_examples=30, deadline=None)
def test_rules_are_unambiguous_and_leaves_are_parsed(seed, shape):
    grammar = Hierarchy.random(*shape, seed=seed)
    v, m, s, L = shape
    assert grammar.rules.shape == (L, v, m, s)
    assert 0 <= grammar.rules.min() <= grammar.rules.max() < v
    for rules in grammar.rules:
        assert len(rules.reshape(-1, s).unique(dim=0)) == m * v
    latents = grammar.sample(6, torch.Generator().manual_seed(seed))
    for a, b in zip(grammar.parse(latents[0]), latents, strict=True):
        assert torch.equal(a, b)


def test_levels_have_rules_of_their_own_and_seeds_have_grammars():
    one, other = Hierarchy.random(16, 4, 2, 3, seed=0), Hierarchy.random(16, 4, 2, 3, seed=1)
    assert not torch.equal(one.rules[0], one.rules[1])
    assert not torch.equal(one.rules, other.rules)
    assert torch.equal(one.rules, Hierarchy.random(16, 4, 2, 3, seed=0).rules)


def test_what_no_rule_makes_has_no_parent():
    grammar = Hierarchy.random(4, 1, 2, 2, seed=0)  # 4 of 16 pairs are rules
    pairs = {tuple(r) for r in grammar.rules[0].reshape(-1, 2).tolist()}
    wrong = next(p for p in itertools.product(range(4), repeat=2) if p not in pairs)
    right = next(iter(pairs))
    level = grammar.parse(torch.tensor([[*wrong, *right]]))
    assert level[1][0, 0] == -1
    assert level[1][0, 1] >= 0
    assert level[2].item() == -1


def test_certain_leaves_leave_no_doubt_and_contradictions_no_nan():
    grammar = Hierarchy.random(6, 2, 2, 4, seed=2)
    truth = grammar.sample(5, torch.Generator().manual_seed(0))
    certain = leaves.epsilon(truth[0], 6, 0.0)
    assert torch.isinf(certain).any()
    for a, p in zip(truth, grammar.posterior(certain).marginals(), strict=True):
        torch.testing.assert_close(p.gather(2, a[..., None]), torch.ones_like(p[..., :1]))
    nonsense = leaves.epsilon(torch.zeros_like(truth[0]), 6, 0.0)
    posterior = grammar.posterior(nonsense)
    for p in posterior.marginals():
        torch.testing.assert_close(p.sum(-1), torch.ones_like(p[..., 0]))
    assert all((drawn >= 0).all() for drawn in posterior.draw(torch.Generator().manual_seed(0)))


def test_a_deep_tree_with_strong_evidence_stays_exact():
    """512 leaves with log-likelihoods of a million: the posterior is the parse, the evidence the sum."""
    grammar = Hierarchy.random(16, 4, 2, 9, seed=0)
    truth = grammar.sample(4, torch.Generator().manual_seed(0))
    strong = 1e6 * torch.nn.functional.one_hot(truth[0], 16).double()
    posterior = grammar.posterior(strong)
    rules = sum(2**k for k in range(9))
    expected = 512e6 - np.log(16) - rules * np.log(4)
    np.testing.assert_allclose(posterior.evidence.numpy(), expected, rtol=1e-12)
    assert torch.equal(posterior.marginals()[0].argmax(-1), truth[0])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"v": 1}, "v is 1; accepted: a whole number of at least 2."),
        ({"m": 0}, "m is 0"),
        ({"s": 1}, "s is 1"),
        ({"L": 2.5}, "L is 2.5"),
        ({"seed": -1}, "seed is -1"),
        ({"m": 5}, r"m is 5; accepted: at most v\*\*\(s - 1\) = 4"),
        ({"L": 30}, "L is 30; accepted: a tree of at most 1048576 leaves"),
        ({"v": 10**10, "s": 5}, r"v, s are 10000000000, 5; accepted: v\*\*s below 2\*\*62."),
    ],
)
def test_what_is_no_grammar_is_refused(refuses, change, sentence):
    with refuses(sentence):
        Hierarchy.random(**({"v": 4, "m": 2, "s": 2, "L": 2} | change))
