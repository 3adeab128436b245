"""The papers behind experiments, samplers and measures, by name, so that a run can cite them."""

from __future__ import annotations

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
}
