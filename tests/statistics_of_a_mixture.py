"""Two components at +-mean in one dimension under VP 0.1 to 20: what a U-turn keeps, by quadrature."""

import numpy as np
from scipy.integrate import quad

from turningpoint.diffusion.schedule import VP


def kept_by_quadrature(t, mean=2.0, std=0.5):
    """E[p_+^2 + p_-^2] along the discriminant axis."""
    clock = VP()
    alpha, sigma = float(clock.alpha(t)), float(clock.sigma(t))
    variance = (alpha * std) ** 2 + sigma**2

    def integrand(x):
        density = sum(np.exp(-((x - s * alpha * mean) ** 2) / 2 / variance) for s in (-1, 1))
        p = 1 / (1 + np.exp(-2 * alpha * mean * x / variance))
        return (p**2 + (1 - p) ** 2) * density / 2 / np.sqrt(2 * np.pi * variance)

    return quad(integrand, -12, 12, limit=200, epsabs=1e-10)[0]
