r"""``gaussians``: mixtures of Gaussians, with everything in closed form.

Data is :math:`x_0 \sim \sum_c w_c N(m_c, C_c)`, so :math:`x_t \sim \sum_c w_c N(\alpha m_c, C_{c,t})`
with :math:`C_{c,t} = \alpha^2 C_c + \sigma^2`, and with the gap :math:`\delta_c = x_t - \alpha m_c`:

.. math::

    p(c \mid x_t) &\propto w_c \, N(x_t; \alpha m_c, C_{c,t}), \\
    \mu_c = E[x_0 \mid x_t, c] &= m_c + \alpha C_c C_{c,t}^{-1} \delta_c, \\
    D = E[x_0 \mid x_t] &= \textstyle\sum_c p(c \mid x_t) \, \mu_c, \\
    \nabla \log p_t(x_t) &= -\textstyle\sum_c p(c \mid x_t) \, C_{c,t}^{-1} \delta_c, \\
    \frac{\partial D}{\partial x_t} &= \textstyle\sum_c p(c \mid x_t) \Big[ \alpha C_c C_{c,t}^{-1}
        + \frac{\alpha}{\sigma^2} (\mu_c - D)(\mu_c - D)^\top \Big].

The Jacobian follows from :math:`\nabla p_c = p_c (g_c - \bar g)` for :math:`g_c = -C_{c,t}^{-1} \delta_c`
and Tweedie's formula in each component, :math:`\alpha \mu_c = x_t + \sigma^2 g_c`; it is
:math:`\alpha / \sigma^2` times the posterior's covariance, within components and between them.
(Bishop 2006, section 2.3; Efron 2011 for Tweedie's formula.)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.linalg import helmert
from torch import Tensor
from torch.nn.functional import one_hot

from ..diffusion.covariance import Covariances
from ..diffusion.exact import ExactDenoiser, precise
from ..diffusion.schedule import Schedule, schedule_named
from ..errors import TurningpointError
from . import MODELS
from .settings import array, exclusive, items, number, whole

STD, DISTANCE = 0.5, 2.0
"""Where nothing is said: the components' standard deviation, and their centres' distance from 0."""


class Gaussians(ExactDenoiser):
    """A mixture of K Gaussians whose components are its classes.

    With a label the data is that component alone; -1, or no label, is the mixture.

    Parameters
    ----------
    means : Tensor (K, *shape)
        The components' centres.
    covariances : Covariances
        K of them, over the entries of an item.
    weights : Tensor (K,), optional
        Positive; they need not sum to 1. Equal by default.
    schedule : Schedule or str
        The clock, or its name (see `schedule_named`).

    Raises
    ------
    TurningpointError
        If the numbers of components or of entries differ, or a weight is not positive.

    Examples
    --------
    >>> model = Gaussians(torch.tensor([[-2.0], [2.0]]), Covariances.isotropic(torch.full((2,), 0.25), 1))
    >>> t = model.schedule.t(logsnr=0.0)[None]
    >>> model.posterior(torch.tensor([[1.0]]), t)
    tensor([[0.0107, 0.9893]], dtype=torch.float64)
    """

    means: Tensor
    weights: Tensor

    def __init__(
        self,
        means: Tensor,
        covariances: Covariances,
        weights: Tensor | None = None,
        schedule: Schedule | str = "vp",
    ) -> None:
        super().__init__()
        count, dim = len(means), means[0].numel()
        if (len(covariances), covariances.dim) != (count, dim):
            raise TurningpointError(
                f"the covariances are {len(covariances)} over {covariances.dim} entries; accepted: "
                f"{count} over {dim}, as there are means."
            )
        share = torch.ones(count) if weights is None else weights
        if share.shape != (count,) or not bool((share > 0).all() and share.isfinite().all()):
            raise TurningpointError(f"weights are {share.tolist()}; accepted: {count} positive numbers.")
        self.register_buffer("means", means.double())
        self.register_buffer("weights", share.double() / share.double().sum())
        self.covariances = covariances
        self.schedule, self.shape, self.n_classes = schedule_named(schedule), tuple(means.shape[1:]), count

    # ---- what an ExactDenoiser offers

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        gap, alpha_t, sigma_t = self._gaps(x_t, t)
        share = self._log_joint(gap, alpha_t, sigma_t, label).softmax(1)
        x_0 = (share[..., None] * self._component_means(gap, alpha_t, sigma_t)).sum(1)
        return x_0.reshape(x_t.shape).to(x_t.dtype)

    def component_means(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t, c] for every component, (B, K, *shape)."""
        means = self._component_means(*self._gaps(x_t, t))
        return means.reshape(len(x_t), -1, *self.shape).to(x_t.dtype)

    def log_density(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self._log_joint(*self._gaps(x_t, t), label).logsumexp(1)

    def log_posterior(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self._log_joint(*self._gaps(x_t, t)).log_softmax(1)

    def prior(self) -> Tensor:
        """The weights, (K,)."""
        return self.weights

    def score(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The gradient of log p_t at x_t, (B, *shape), without the cancellation of Tweedie's formula."""
        gap, alpha_t, sigma_t = self._gaps(x_t, t)
        share = self._log_joint(gap, alpha_t, sigma_t, label).softmax(1)
        pulls = self.covariances.solve(gap, alpha_t, sigma_t)
        pull = (share[..., None] * pulls).sum(1)
        return -pull.reshape(x_t.shape).to(x_t.dtype)

    def jacobian(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """dE[x_0 | x_t] / dx_t in closed form, (B, d, d), symmetric."""
        gap, alpha_t, sigma_t = self._gaps(x_t, t)
        share = self._log_joint(gap, alpha_t, sigma_t, label).softmax(1)
        means = self._component_means(gap, alpha_t, sigma_t)
        apart = means - (share[..., None] * means).sum(1, keepdim=True)
        between = torch.einsum("bk,bki,bkj->bij", share, apart, apart)
        result = (alpha_t / sigma_t.square())[:, None, None] * between
        for k, component in enumerate(self.covariances):  # one (B, d, d) at a time
            result += share[:, k, None, None] * component.gain_matrix(alpha_t, sigma_t)[:, 0]
        return result.to(x_t.dtype)

    def sample(self, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        label = torch.multinomial(self.weights.cpu(), count, replacement=True, generator=generator)
        z = torch.randn(count, self.covariances.dim, generator=generator, dtype=torch.float64)
        x_0, label = z.to(self.means), label.to(self.means.device)
        for k, component in enumerate(self.covariances):
            rows = label == k
            x_0[rows] = self.means[k].flatten() + component.sample(x_0[rows][:, None])[:, 0]
        return x_0.reshape(count, *self.shape).float(), label

    # ---- of the data

    def mean(self) -> Tensor:
        """E[x_0], (*shape)."""
        return (self.weights @ self.means.flatten(1)).reshape(self.shape)

    def covariance(self) -> Tensor:
        """Cov[x_0] of the whole mixture, within and between components, (d, d)."""
        apart = (self.means - self.mean()).flatten(1)
        result = torch.einsum("k,ki,kj->ij", self.weights, apart, apart)
        for weight, component in zip(self.weights, self.covariances, strict=True):
            result += weight * component.dense()[0]
        return result

    # ---- what the theories ask (`turningpoint.theory.known`)

    def class_means(self) -> Tensor:
        """The components' centres, flat, (K, d)."""
        return self.means.flatten(1)

    def class_variance(self) -> float | None:
        """The variance of every entry of every component, if all have this one isotropic covariance."""
        variances = self.covariances.eigenvalues
        if self.covariances.rank < self.covariances.dim:
            variances = torch.cat([variances, self.covariances.remainder], 1)
        first = variances.flatten()[0].item()
        return first if bool((variances == first).all()) else None

    def eigenvalues(self) -> Tensor:
        """Of the covariance of the whole mixture, (d,), in any order."""
        if len(self.means) > 1:
            values: Tensor = torch.linalg.eigvalsh(self.covariance())
            return values
        rest = self.covariances.dim - self.covariances.rank
        return torch.cat([self.covariances.eigenvalues[0], self.covariances.remainder[0].expand(rest)])

    # ---- parts of the formulas

    def _gaps(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x_t - alpha m_c of (B, K, d), alpha_t and sigma_t of (B,)."""
        x = precise(x_t).flatten(1)
        alpha_t, sigma_t = (clock[:, 0] for clock in self.clocks(x, t))
        return x[:, None] - alpha_t[:, None, None] * self.means.flatten(1), alpha_t, sigma_t

    def _component_means(self, gap: Tensor, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
        return self.means.flatten(1) + self.covariances.gain(gap, alpha_t, sigma_t)

    def _log_joint(
        self, gap: Tensor, alpha_t: Tensor, sigma_t: Tensor, label: Tensor | None = None
    ) -> Tensor:
        """log p(c) N(x_t; alpha m_c, C_t), (B, K); where there is a label, p(c) is 1 for it, else 0."""
        squares = self.covariances.quadratic(gap, alpha_t, sigma_t)
        logdet = self.covariances.logdet(alpha_t, sigma_t)
        log_prior = self.weights.log()
        if label is not None:
            told = one_hot(label.clamp_min(0), len(self.weights)).to(gap).log()
            log_prior = torch.where((label < 0)[:, None], log_prior, told)
        return log_prior - (squares + logdet + gap.shape[2] * math.log(2 * math.pi)) / 2


def simplex(count: int, dim: int, radius: float) -> Tensor:
    """The corners of a regular simplex around 0 on the first ``count - 1`` axes, (count, dim).

    Two corners are -radius and +radius on the first axis; one is 0.

    Raises
    ------
    TurningpointError
        If it does not fit into ``dim`` dimensions.

    Examples
    --------
    >>> simplex(2, 3, 1.5)
    tensor([[-1.5000, 0.0000, 0.0000],
            [ 1.5000, 0.0000, 0.0000]], dtype=torch.float64)
    """
    if count > dim + 1:
        raise TurningpointError(
            f"classes is {count} in dim {dim}; accepted: at most dim + 1, so that all have equal distances."
        )
    corners = torch.zeros(count, dim, dtype=torch.float64)
    if count > 1:
        corners[:, : count - 1] = -torch.from_numpy(helmert(count).T) * (count / (count - 1)) ** 0.5 * radius
    return corners


@MODELS.add("gaussians")
def load(
    means: Any = None,
    cov: Any = None,
    weights: Any = None,
    schedule: Schedule | str = "vp",
    *,
    std: float | None = None,
    dim: int | None = None,
    classes: int | None = None,
    distance: float | None = None,
    basis: Any = None,
    eigenvalues: Any = None,
    remainder: Any = None,
) -> Gaussians:
    """A mixture of Gaussians, from arrays or from a few numbers.

    Parameters
    ----------
    means : array (K, *shape), optional
        One centre per component; (K,) is K numbers, in one dimension.
    cov : float or array (K,), (K, d) or (K, d, d), optional
        One variance for all; a variance per component; per component and entry, d the number of entries
        of an item; or full matrices, singular ones too. The number of axes decides: (K,) is never a
        diagonal, even if K = d.
    weights : sequence of K floats, optional
        Equal by default; they need not sum to 1.
    schedule : Schedule or str
        The clock, or one of vp, edm, flow, linear, scaled_linear, cosine.
    std : float, optional
        In place of ``cov``: the standard deviation of all components; by default 0.5.
    dim, classes, distance : optional
        In place of ``means``: components at ``distance`` (2 by default) from 0 in ``dim`` dimensions (2 by
        default), two (the default) at -distance and +distance on the first axis, more of them at the
        corners of a regular simplex.
    basis : array (K, d, r), optional
        In place of ``cov``, low rank: orthonormal columns per component. Without ``means`` these are 0.
    eigenvalues : float or array (K, r), optional
        The variances along the columns; 1 by default.
    remainder : float or array (K,), optional
        The variance in all other directions; 0 by default.

    Raises
    ------
    TurningpointError
        If settings exclude each other, or a shape does not fit.

    Examples
    --------
    >>> load(dim=8, distance=2, std=0.5).means[:, 0]
    tensor([-2., 2.], dtype=torch.float64)
    """
    for argument, value in (("means", means), ("basis", basis)):
        exclusive(argument, value, dim=dim, classes=classes, distance=distance)
    for argument, value in (("cov", cov), ("std", std)):
        exclusive(argument, value, basis=basis, eigenvalues=eigenvalues, remainder=remainder)
    exclusive("cov", cov, std=std)
    if basis is None:
        for argument, value in (("eigenvalues", eigenvalues), ("remainder", remainder)):
            if value is not None:
                raise TurningpointError(f"{argument} is given without basis; accepted: together with it.")
    columns = None if basis is None else array("basis", basis, "(K, d, r)", axes=(3,))
    if means is not None:
        centres = items("means", means)
    elif columns is not None:
        centres = columns.new_zeros(columns.shape[:2])
    else:
        count, size = (
            whole("classes", 2 if classes is None else classes),
            whole("dim", 2 if dim is None else dim),
        )
        centres = simplex(count, size, number("distance", DISTANCE if distance is None else distance))
    count, size = len(centres), centres[0].numel()
    if columns is not None:
        covariances = _low_rank(columns, eigenvalues, remainder, count, size)
    else:
        covariances = _covariances(
            (STD if std is None else number("std", std, 0)) ** 2 if cov is None else cov, count, size
        )
    shares = None if weights is None else array("weights", weights, "(K,)", axes=(1,))
    return Gaussians(centres, covariances, shares, schedule)


def _covariances(cov: Any, count: int, dim: int) -> Covariances:
    """Isotropic, diagonal or full, by the number of axes of ``cov``."""
    accepted = (f"({count},)", f"({count}, {dim})", f"({count}, {dim}, {dim})")
    given = array("cov", cov, "()", *accepted, axes=(0, 1, 2, 3))
    if given.ndim == 0:
        given = given.expand(count)
    if given.shape != (count, dim, dim)[: given.ndim]:
        raise TurningpointError(
            f"cov has shape {tuple(given.shape)}; accepted: a number, or shape {' or '.join(accepted)}."
        )
    if given.ndim == 1:
        return Covariances.isotropic(given, dim)
    return Covariances.diagonal(given) if given.ndim == 2 else Covariances.full(given)


def _low_rank(columns: Tensor, eigenvalues: Any, remainder: Any, count: int, dim: int) -> Covariances:
    rank = columns.shape[2]
    if columns.shape[:2] != (count, dim):
        raise TurningpointError(f"basis has shape {tuple(columns.shape)}; accepted: ({count}, {dim}, r).")
    along = array("eigenvalues", 1.0 if eigenvalues is None else eigenvalues, "(K, r)", axes=(0, 2))
    across = array("remainder", 0.0 if remainder is None else remainder, "(K,)", axes=(0, 1))
    if along.ndim and along.shape != (count, rank):
        raise TurningpointError(
            f"eigenvalues have shape {tuple(along.shape)}; accepted: a number, or shape ({count}, {rank})."
        )
    if across.ndim and across.shape != (count,):
        raise TurningpointError(
            f"remainder has shape {tuple(across.shape)}; accepted: a number, or shape ({count},)."
        )
    return Covariances.low_rank(columns, along.expand(count, rank), across.expand(count))
