"""The four processes that hide leaves: three are channels, the epsilon-process is none."""

import numpy as np
import pytest
import torch

from turningpoint.diffusion import leaves
from turningpoint.diffusion.hierarchy import Hierarchy

V = 5


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def truth():
    return torch.randint(V, (400, 50), generator=_generator(9))


def test_epsilon_believes_in_the_true_leaf(truth):
    belief = leaves.epsilon(truth, V, 0.3).exp()
    torch.testing.assert_close(belief.sum(-1), torch.ones_like(belief[..., 0]))
    true = torch.full_like(belief[..., :1], 0.7 + 0.06)
    torch.testing.assert_close(belief.gather(2, truth[..., None]), true, rtol=1e-14, atol=0)
    none = leaves.epsilon(truth, V, 1.0).exp()
    torch.testing.assert_close(none, torch.full_like(none, 0.2), rtol=1e-14, atol=0)


def test_masking_hides_a_fraction_and_shows_the_rest(truth):
    shown = leaves.masking(truth, V, 0.3, _generator())
    hidden = (shown == 0).all(-1)
    assert abs(hidden.double().mean() - 0.3) < 4 * np.sqrt(0.21 / truth.numel())
    assert torch.equal(shown[~hidden], leaves.epsilon(truth, V, 0.0)[~hidden])
    more = (leaves.masking(truth, V, 0.6, _generator()) == 0).all(-1)
    assert (more | ~hidden).all()  # the same generator hides a superset


def test_corruption_replaces_leaves(truth):
    """A seen leaf is the true one with probability 1 - epsilon + epsilon / v, as its likelihood says."""
    likelihood = leaves.corruption(truth, V, 0.4, _generator()).exp()
    seen = likelihood.argmax(-1)
    torch.testing.assert_close(likelihood, leaves.epsilon(seen, V, 0.4).exp())
    p = 0.6 + 0.4 / V
    assert abs((seen == truth).double().mean() - p) < 4 * np.sqrt(p * (1 - p) / truth.numel())


def test_gaussian_is_the_likelihood_of_noisy_one_hot_leaves(truth):
    logsnr, few = 0.7, truth[:1, :4]
    found = leaves.gaussian(few, V, logsnr, _generator()).log_softmax(-1)
    alpha = 1.3  # any clock with this log-SNR
    sigma = alpha * np.exp(-logsnr / 2)
    z = torch.randn((*few.shape, V), generator=_generator(), dtype=torch.float64)
    noisy = alpha * torch.nn.functional.one_hot(few, V) + sigma * z
    gaps = [(noisy - alpha * torch.eye(V, dtype=torch.float64)[a]).square().sum(-1) for a in range(V)]
    torch.testing.assert_close(found, (-torch.stack(gaps, -1) / (2 * sigma**2)).log_softmax(-1))


@pytest.mark.parametrize(
    ("process", "level"), [("masking", 0.4), ("corruption", 0.3), ("gaussian", 0.5), ("epsilon", 0.6)]
)
def test_only_channels_have_the_truth_as_a_posterior_draw(process, level):
    """E p(true) = E sum_a p(a)^2 for a channel; the epsilon-process knows the truth and breaks it."""
    grammar = Hierarchy.random(6, 3, 2, 4, seed=4)
    truth = grammar.sample(1500, _generator(1))
    if process == "epsilon":
        observed = leaves.epsilon(truth[0], 6, level)
    else:
        observed = getattr(leaves, process)(truth[0], 6, level, _generator(2))
    gaps = []
    for a, p in zip(truth, grammar.posterior(observed).marginals(), strict=True):
        gap = (p.gather(2, a[..., None])[..., 0] - p.square().sum(-1)).mean(1)
        gaps.append(float(gap.mean() / gap.std() * len(gap) ** 0.5))
    if process == "epsilon":
        assert min(gaps) > 8
    else:
        assert max(map(abs, gaps)) < 4


def test_epsilon_and_corruption_are_different_processes():
    """At one epsilon the belief in true leaves keeps far more roots than real corruption leaves."""
    grammar = Hierarchy.random(16, 4, 2, 6, seed=0)
    truth = grammar.sample(200, _generator(1))
    kept = {}
    for name, observed in (
        ("epsilon", leaves.epsilon(truth[0], 16, 0.5)),
        ("corruption", leaves.corruption(truth[0], 16, 0.5, _generator(2))),
    ):
        belief = grammar.posterior(observed).log_root.exp().gather(1, truth[-1])
        kept[name] = belief.mean().item()
    assert kept["epsilon"] > 0.95
    assert kept["corruption"] < 0.2
