"""The papers behind experiments, samplers and measures, by name, so that a run can cite them."""

from __future__ import annotations

_FALSE_DISCOVERY = (
    "Benjamini & Hochberg, Controlling the false discovery rate: a practical and powerful approach to multiple "
    "testing, Journal of the Royal Statistical Society B 57 (1995) 289."
)
_PAINTERS = (
    "Wang & Vastola, Diffusion models generate images like painters: an analytical theory of outline first, details "
    "later, 2023, arXiv:2303.02490 (emergence of modes, gain)."
)

PAPERS = {
    "uturn": [
        "Sclocchi, Favero & Wyart, A phase transition in diffusion models reveals the hierarchical nature "
        "of data, PNAS 122 (2025), arXiv:2402.16991 (forward-backward experiments).",
        "Li & Chen, Critical windows: non-asymptotic theory for feature emergence in diffusion models, "
        "ICML 2024, arXiv:2403.01633 (critical windows).",
        "Raya & Ambrogioni, Spontaneous symmetry breaking in generative diffusion models, NeurIPS 2023, "
        "arXiv:2305.19693.",
    ],
    "clone": [
        "Biroli, Bonnaire, de Bortoli & Mezard, Dynamical regimes of diffusion models, Nature Communications 15 "
        "(2024), arXiv:2402.18491 (cloned trajectories).",
        "Li & Chen, Critical windows: non-asymptotic theory for feature emergence in diffusion models, "
        "ICML 2024, arXiv:2403.01633 (critical windows).",
    ],
    "trace": [_PAINTERS],
    "activations": [
        "Hoyer, Non-negative matrix factorization with sparseness constraints, JMLR 5 (2004) 1457 (sparsity).",
        "Roy & Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007, 606.",
        "Westfall & Young, Resampling-based multiple testing, Wiley 1993 (corrected p-values).",
        _FALSE_DISCOVERY,
    ],
    "patch": [_FALSE_DISCOVERY],
    "ddpm": ["Ho, Jain & Abbeel, Denoising diffusion probabilistic models, NeurIPS 2020, arXiv:2006.11239."],
    "ddim": ["Song, Meng & Ermon, Denoising diffusion implicit models, ICLR 2021, arXiv:2010.02502."],
    "euler": [
        "Karras et al., Elucidating the design space of diffusion-based generative models, NeurIPS 2022."
    ],
    "heun": [
        "Karras et al., Elucidating the design space of diffusion-based generative models, NeurIPS 2022."
    ],
    "guidance": ["Ho & Salimans, Classifier-free diffusion guidance, 2022, arXiv:2207.12598."],
    "morphometry": [
        "Castro et al., Morpho-MNIST: quantitative assessment and diagnostics for representation learning, "
        "JMLR 20 (2019) 178."
    ],
    "frequency": [
        "Rissanen, Heinonen & Solin, Generative modelling with inverse heat dissipation, ICLR 2023, arXiv:2206.13397 "
        "(frequency bands of diffusion models).",
    ],
    "spectrum": [
        "Field, Relations between the statistics of natural images and the response properties of cortical cells, "
        "Journal of the Optical Society of America A 4 (1987) 2379 (slope of the spectrum).",
    ],
    "gain": [_PAINTERS],
    "wavelet": [
        "Mallat, A theory for multiresolution signal decomposition: the wavelet representation, IEEE PAMI 11 (1989) "
        "674.",
        "Daubechies, Ten lectures on wavelets, SIAM 1992.",
    ],
    "structure": [
        "Canny, A computational approach to edge detection, IEEE PAMI 8 (1986) 679.",
        "Otsu, A threshold selection method from gray-level histograms, IEEE SMC 9 (1979) 62.",
        "Wang, Bovik, Sheikh & Simoncelli, Image quality assessment: from error visibility to structural similarity, "
        "IEEE Transactions on Image Processing 13 (2004) 600 (SSIM).",
        "Wang, Simoncelli & Bovik, Multiscale structural similarity for image quality assessment, Asilomar Conference "
        "on Signals, Systems & Computers 2003, 1398 (MS-SSIM).",
    ],
    "texture": [
        "Ojala, Pietikäinen & Mäenpää, Multiresolution gray-scale and rotation invariant texture classification with "
        "local binary patterns, IEEE PAMI 24 (2002) 971.",
        "Haralick, Shanmugam & Dinstein, Textural features for image classification, IEEE SMC 3 (1973) 610.",
        "Gatys, Ecker & Bethge, Texture synthesis using convolutional neural networks, NeurIPS 2015, arXiv:1505.07376.",
    ],
    "lab": [
        "Hasler & Süsstrunk, Measuring colourfulness in natural images, Human Vision and Electronic Imaging VIII, "
        "Proceedings of SPIE 5007 (2003) 87.",
        "Sharma, Wu & Dalal, The CIEDE2000 color-difference formula: implementation notes, supplementary test data, "
        "and mathematical observations, Color Research & Application 30 (2005) 21.",
    ],
    "perceptual": [
        "Zhang, Isola, Efros, Shechtman & Wang, The unreasonable effectiveness of deep features as a perceptual "
        "metric, CVPR 2018, arXiv:1801.03924 (LPIPS).",
    ],
}
