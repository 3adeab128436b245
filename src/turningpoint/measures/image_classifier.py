r"""``classifier``: what any image classifier sees in an image, its own reference or a stranger's.

With logits :math:`\ell(x) \in \mathbb{R}^K`, the start :math:`x` of a walk and what came back, :math:`x'`,

.. math::

   \text{top1}(x) = \arg\max_k \ell_k(x), \qquad
   \text{top5}(x, x') = \big[\, \#\{k : \ell_k(x') > \ell_{c}(x')\} < 5 \,\big], \quad c = \text{top1}(x).

So ``top5`` asks whether the class of the start is still among the first five, the measure of ImageNet's contests
turned to U-turns; of a classifier with five classes or fewer it is always 1.  The logits
themselves are a vector, whose retention falls before the class changes (`Sclocchi, Favero & Wyart 2025
<https://arxiv.org/abs/2402.16991>`_, fig. 2, who look at ConvNeXt's).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.settings import whole
from . import MEASURES, Measure, Reading
from ._classifiers import image_classifier

FIRST = 5
REMEMBERED = 2**22
"""Logits that are kept at hand, so that an image is looked at once: 16 MB, of 4194 images at 1000 classes."""


@MEASURES.add("classifier")
class Classification(Measure):
    """Class, first five classes and logits of an image classifier.

    Parameters
    ----------
    model : Denoiser, optional
        The model under study, whose own classifier is ``classifier="reference"``.
    classifier : str, ImageClassifier or nn.Module
        As `image_classifier` takes it.
    trust_program : bool
        Whether a file that is a program may be run.
    device : str, optional
        Where the classifier runs; by default a GPU if there is one.
    batch : int
        Images per call of the network.

    Raises
    ------
    TurningpointError
        If there is no such classifier or, on reading, if it cannot take the images.

    Examples
    --------
    >>> one = Classification(classifier=lambda x: torch.cat([x.mean((2, 3)), -x.mean((2, 3))], 1))
    >>> one.read(torch.tensor([0.5, -0.5]).reshape(2, 1, 1, 1))
    {'top1': array([0, 1]), 'logits': array([[ 0.5, -0.5], [-0.5,  0.5]], dtype=float32)}
    """

    name = "classifier"
    by_default = False

    def __init__(
        self,
        model: Any = None,
        classifier: Any = "efficientnet-lite0",
        trust_program: bool = False,
        device: Any = None,
        batch: int = 32,
    ) -> None:
        self.batch = whole("batch", batch)
        self.classifier = image_classifier(classifier, model, trust_program=trust_program, device=device)
        who = self.classifier.name
        self.readings = (
            Reading("top1", "categorical", f"the class that {who} sees", values=self.classifier.classes),
            Reading("top5", "comparison", f"the start's class is among the first five of {who}"),
            Reading("logits", "vector", f"logits of {who}"),
        )
        self._seen: OrderedDict[bytes, Tensor] = OrderedDict()

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, K), of which those of images that were looked at lately are remembered."""
        keys = [hashlib.sha256(image.numpy().tobytes()).digest() for image in images.detach().cpu().float()]
        known = {key: self._seen[key] for key in keys if key in self._seen}
        fresh = list({key: row for row, key in enumerate(keys) if key not in known}.values())
        for first in range(0, len(fresh), self.batch):
            part = fresh[first : first + self.batch]
            found = self.classifier(self.classifier.prepare(images[part]))
            known |= {keys[row]: logits for row, logits in zip(part, found, strict=True)}
        for key in keys:
            self._seen[key] = known[key]
            self._seen.move_to_end(key)
        logits = torch.stack([known[key] for key in keys])
        while len(self._seen) > max(REMEMBERED // max(logits.shape[1], 1000), 1):
            self._seen.popitem(last=False)
        return logits

    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        logits = self.logits(images)
        return {"top1": logits.argmax(1).numpy(), "logits": logits.numpy()}

    def compare(self, a: Tensor, b: Tensor) -> dict[str, np.ndarray]:
        return {"top5": among_first(self.logits(a), self.logits(b)).float().numpy()}

    def compare_with(self, starts: Sequence[Tensor], images: Tensor) -> list[dict[str, np.ndarray]]:
        logits = self.logits(images)
        return [{"top5": among_first(self.logits(start), logits).float().numpy()} for start in starts]

    def settings(self) -> dict[str, Any]:
        return self.classifier.settings()


def among_first(start: Tensor, back: Tensor, first: int = FIRST) -> Tensor:
    """Whether the largest of each row of ``start`` is among the ``first`` largest of that row of ``back``.

    Parameters
    ----------
    start, back : Tensor (B, K)
        Logits.
    first : int
        How many.

    Examples
    --------
    >>> among_first(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[3.0, 1.0, 2.0]]), first=2)
    tensor([False])
    """
    wanted = start.argmax(1, keepdim=True)
    return ((back > back.gather(1, wanted)).sum(1) < first) & back.gather(1, wanted)[:, 0].isfinite()
