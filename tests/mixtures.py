"""Three mixtures in which classes are decided at different noise levels, one by one or all at once.

Their components do not overlap (the class of clean data is certain), so the class that a reference
classifier sees in an image is the component that it was drawn from.
"""

import numpy as np
import torch

from turningpoint.models.gaussians import Gaussians, load


def five_in_2d() -> Gaussians:
    """Five round components of unequal weights: two pairs and a distant one."""
    means = [(-3.0, -1.0), (-3.0, 1.0), (2.0, 2.5), (2.8, 0.5), (0.5, -4.0)]
    return load(means, cov=[0.04, 0.06, 0.04, 0.06, 0.09], weights=(0.3, 0.1, 0.25, 0.15, 0.2))


def three_full_in_16d() -> Gaussians:
    """Three components with full covariances of their own, one of which is far from the others."""
    draw = np.random.default_rng(16)
    factors = draw.standard_normal((3, 16, 16)) / 4
    sizes = np.array([0.3, 0.5, 0.4])[:, None, None]
    cov = sizes**2 * factors @ factors.transpose(0, 2, 1) + 0.01 * np.eye(16)
    means = draw.standard_normal((3, 16)) * np.array([0.5, 0.5, 1.2])[:, None]
    return load(means, cov=cov, weights=(0.5, 0.2, 0.3))


def two_low_rank_in_48d() -> Gaussians:
    """Two subspaces at skew angles around a common centre: only covariances tell the classes apart."""
    draw = np.random.default_rng(48)
    first = np.linalg.qr(draw.standard_normal((48, 6)))[0]
    second = np.linalg.qr(first / 2 + draw.standard_normal((48, 6)) / 48**0.5)[0]
    basis = torch.from_numpy(np.stack([first, second]))
    return load(basis=basis, eigenvalues=[[4, 3, 2, 1, 1, 0.5]] * 2, remainder=0.01, weights=(0.6, 0.4))
