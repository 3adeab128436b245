r"""``clip``: questions in words. Which of these texts fits the image best?

CLIP and SigLIP embed images and texts in one space.  With :math:`u` an image's embedding and :math:`v_1 \dots v_k`
those of a question's alternatives, each put into a sentence, all of unit length, the model's own logits and the
reading of the question are

.. math::

   z_i = s \, u \cdot v_i + b, \qquad p_i = \frac{e^{z_i}}{\sum_j e^{z_j}}, \qquad \text{winner} = \arg\max_i z_i,

with the scale :math:`s` and bias :math:`b` that the model has learned.  CLIP was trained with this softmax, and
:math:`b = 0`.  SigLIP was trained with a sigmoid :math:`\sigma(z_i)` for each pair; but the alternatives of a question
exclude each other, and given that exactly one of k independent pairs matches, it is pair i with probability

.. math:: \frac{\sigma(z_i) / (1 - \sigma(z_i))}{\sum_j \sigma(z_j) / (1 - \sigma(z_j))} = p_i,

the same softmax.  A bias cancels in it.

Sources: CLIP, `Radford et al. 2021 <https://arxiv.org/abs/2103.00020>`_, section 3.1 (zero-shot, and sentences around
alternatives); SigLIP, `Zhai et al. 2023 <https://arxiv.org/abs/2303.15343>`_.  Features decided at critical times
read in this way: `Li & Chen 2024 <https://arxiv.org/abs/2403.01633>`_.
"""

from __future__ import annotations

import csv
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import TurningpointError
from . import MEASURES, Reading
from ._classifiers._identity import of_module
from ._published import Published
from ._vision import Vision, VisionMeasure, switch

NETWORK = "openai/clip-vit-base-patch32"
TEMPLATE = "a photo of a {}"
ASKED = "a question like 'color: red, blue, green', of a name and at least two alternatives"
OWN = ("embedding", "patches")
"""Names of the measure's other readings."""


def question(text: str) -> tuple[str, tuple[str, ...]]:
    """The name and the alternatives of a question.

    Parameters
    ----------
    text : str
        ``"NAME: ALTERNATIVE, ALTERNATIVE, ..."``; an alternative with a comma stands in double quotes, as in CSV.

    Raises
    ------
    TurningpointError
        If the name is not like a variable's, or there are not two different alternatives.

    Examples
    --------
    >>> question('color: red, blue, green')
    ('color', ('red', 'blue', 'green'))
    >>> question('pose: lying, "sitting, with a ball"')
    ('pose', ('lying', 'sitting, with a ball'))
    """
    head, colon, tail = text.partition(":")
    try:
        listed = next(csv.reader([tail], skipinitialspace=True, strict=True), [])
    except csv.Error:
        raise TurningpointError(
            f"ask is {text!r}, in which a quote is not closed; accepted: {ASKED}."
        ) from None
    if not colon:
        raise TurningpointError(f"ask is {text!r}; accepted: {ASKED}.")
    name, alternatives = head.strip(), tuple(one.strip() for one in listed)
    if not name.isidentifier() or name in OWN:
        raise TurningpointError(
            f"ask names a question {name!r}; accepted: a name like a variable's, but not {' or '.join(OWN)}."
        )
    if len(alternatives) < 2 or not all(alternatives):
        raise TurningpointError(
            f"ask gives {name!r} the alternatives {list(alternatives)}; accepted: {ASKED}."
        )
    twice = [one for one in alternatives if alternatives.count(one) > 1]
    if twice:
        raise TurningpointError(f"ask gives {name!r} the alternative {twice[0]!r} twice; accepted: {ASKED}.")
    return name, alternatives


def questions(ask: Any) -> dict[str, tuple[str, ...]]:
    """All that is asked, alternatives by the name of their question; the later of two of one name counts.

    >>> questions(["color: red, blue", "animal: cat, dog", "color: red, green"])
    {'color': ('red', 'green'), 'animal': ('cat', 'dog')}
    """
    texts = [ask] if isinstance(ask, str) else ask or []
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise TurningpointError(f"ask is {ask!r}; accepted: {ASKED}.")
    return dict(question(text) for text in texts)


@MEASURES.add("clip")
class Clip(VisionMeasure):
    """For each question its winner and the probabilities of its alternatives; the image's embedding; its patches.

    Parameters
    ----------
    model : Denoiser, optional
        Unused.
    network : str
        A CLIP, SigLIP or SigLIP 2 of `transformers`: a folder, or ``owner/name`` on the hub.
    ask : str or sequence of str
        Questions, ``"color: red, blue, green"``. What was asked of a run before is asked again, unless a question
        of the same name takes its place.
    template : str
        The sentence around an alternative, which takes the place of ``{}``.
    patches : bool
        Whether to compare patches; what was seen is then remembered, up to 256 MB.
    batch : int
        Images that the network sees at once.
    device : str, optional
        By default a GPU if there is one.

    Raises
    ------
    TurningpointError
        If there is no such network, it does not read texts, a question cannot be understood, or `transformers` is
        missing; on reading, if these are no pictures.

    Examples
    --------
    >>> Clip(ask="color: red")
    Traceback (most recent call last):
        ...
    turningpoint.errors.TurningpointError: ask gives 'color' the alternatives ['red']; accepted: a question like
    'color: red, blue, green', of a name and at least two alternatives.
    """

    name = "clip"
    adds_up = ("ask",)

    def __init__(
        self,
        model: Any = None,
        network: str = NETWORK,
        ask: Any = None,
        template: str = TEMPLATE,
        patches: Any = True,
        batch: int = 32,
        device: str | None = None,
    ) -> None:
        del model
        self.questions = questions(ask)
        if not isinstance(template, str) or template.count("{}") != 1:
            raise TurningpointError(f"template is {template!r}; accepted: a text with one {{}} in it.")
        self.patches, self.template = switch("patches", patches), template
        published = Published(network)
        found: Any = published.network()[0]
        if not all(hasattr(found, part) for part in ("vision_model", "get_text_features", "logit_scale")):
            raise TurningpointError(
                f"network is {network!r}, a {type(found).__name__}; accepted: a CLIP, SigLIP or SigLIP 2."
            )
        self.vision = Vision(
            str(network),
            found.vision_model,
            published.image_processor(),
            projection=getattr(found, "visual_projection", None),
            batch=batch,
            device=device,
            remember=self.patches,
        )
        self._network, self._tokenizer = found.to(self.vision.device), published.tokenizer()
        self._scale = float(found.logit_scale.exp())
        self._settings = {
            "network": str(network),
            "weights": of_module(found),
            "preprocessing": self.vision.preprocessing(),
            "template": template,
        }
        self._texts = {name: self._embedded(listed) for name, listed in self.questions.items()}
        readings = []
        for name, listed in self.questions.items():
            either = f"{name}: {', '.join(listed)}"
            readings += [
                Reading(name, "categorical", either, label=name, values=listed),
                Reading(f"{name}.probability", "vector", f"probabilities of {either}", label=f"P({name})"),
            ]
        embedding = Reading("embedding", "vector", "image embedding of unit length", label="clip embedding")
        self.readings = (*readings, embedding, *self.compared())

    @torch.inference_mode()
    def _embedded(self, alternatives: tuple[str, ...]) -> Tensor:
        """The alternatives in their sentences, (k, d) of unit length."""
        most = int(self._network.config.text_config.max_position_embeddings)
        texts = [self.template.replace("{}", one) for one in alternatives]
        for text in texts:
            length = len(self._tokenizer(text, verbose=False).input_ids)
            if length > most:
                raise TurningpointError(
                    f"ask and template make {text!r}, of {length} tokens; accepted: at most {most}."
                )
        tokens = self._tokenizer(texts, padding="max_length", max_length=most, return_tensors="pt")
        found = self._network.get_text_features(**tokens.to(self.vision.device))
        return normalize(getattr(found, "pooler_output", found).float(), dim=-1).cpu()

    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        embedding = self.embeddings(images)
        values: dict[str, np.ndarray] = {"embedding": embedding.numpy()}
        for name, texts in self._texts.items():
            logits = self._scale * embedding @ texts.T
            values[name] = logits.argmax(1).numpy()
            values[f"{name}.probability"] = logits.softmax(1).numpy()
        return values

    def settings(self) -> dict[str, Any]:
        asked = {name: list(listed) for name, listed in self.questions.items()}
        return {**self._settings, "patches": self.patches, "questions": asked}
