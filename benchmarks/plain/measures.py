"""What `turningpoint`'s measures read, one image after another: OpenCV, scikit-image, PyWavelets and NumPy.

A `Reader` looks at an image (C, H, W) once, tells its numbers from what it saw, and compares what it saw of two. Where
one of these libraries has the function it is called; what depends on the size of images alone is made beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Protocol

import cv2
import numpy as np
import pywt
import torch
from skimage.color import rgb2lab
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from skimage.filters import threshold_otsu
from skimage.metrics import structural_similarity

from turningpoint.measures import measure

Shape = tuple[int, int, int]
Numbers = dict[str, Any]
FLOOR = 1e-8
ANGLES = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


class Reader(Protocol):
    """One measure of one image."""

    def look(self, image: np.ndarray) -> Any:
        """What readings and comparisons have in common."""

    def read(self, seen: Any) -> Numbers:
        """The readings."""

    def compare(self, final: Any, seen: Any) -> Numbers:
        """The comparisons of what was seen of the final image, or of the state, with what was seen of the estimate."""


def luma(image: np.ndarray) -> np.ndarray:
    return image[0] if len(image) == 1 else np.tensordot((0.2126, 0.7152, 0.0722), image, 1)


def eight_bit(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image as OpenCV takes it, (H, W) or (H, W, 3) in 8 bit, and its grey."""
    pixels = np.round((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8)
    if len(pixels) == 1:
        return pixels[0], pixels[0]
    pixels = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return pixels, cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


class Bands:
    """The radial bands of `frequency`: where they lie in the half plane of ``rfft2``."""

    def __init__(self, shape: Shape) -> None:
        layout = measure("frequency").bands.layout(*shape[1:])  # type: ignore[attr-defined]
        self.channels, weight = shape[0], layout.weight.numpy()
        self.index = [np.flatnonzero((layout.band.numpy() == b) & (weight > 0)) for b in range(5)]
        self.weights = [weight.ravel()[index] for index in self.index]
        self.sizes = [float((weights**2).sum()) * self.channels for weights in self.weights]

    def look(self, image: np.ndarray) -> list[np.ndarray]:
        spectrum = np.fft.rfft2(image, norm="ortho").reshape(self.channels, -1)
        return self.parts(spectrum)

    def parts(self, spectrum: np.ndarray) -> list[np.ndarray]:
        """The coefficients (C, K) of each band, one of each pair of conjugates."""
        found = (
            spectrum[:, index] * weights for index, weights in zip(self.index, self.weights, strict=True)
        )
        return [np.ascontiguousarray(part) for part in found]

    def phases(self, final: list[np.ndarray], seen: list[np.ndarray]) -> tuple[Numbers, Numbers]:
        """Agreement of phases and of amplitudes by band, without the constant."""
        phase, amplitude = {}, {}
        for b, size in enumerate(self.sizes):
            x, y = (one[b][:, 1:] if b == 0 else one[b] for one in (final, seen))
            of_x, of_y = np.abs(x), np.abs(y)
            shared, power = np.vdot(of_x, of_y), (np.vdot(of_x, of_x) + np.vdot(of_y, of_y)) / 2
            phase[f"phase{b}"] = np.vdot(y, x).real / shared if shared > FLOOR * size else np.nan
            amplitude[f"amplitude{b}"] = shared / power if power > FLOOR * size else np.nan
        return phase, amplitude


class Frequency(Bands):
    def read(self, seen: list[np.ndarray]) -> Numbers:
        power = [np.vdot(part, part).real / size for part, size in zip(seen, self.sizes, strict=True)]
        found: Numbers = {f"energy{b}": np.log10(max(value, FLOOR)) for b, value in enumerate(power)}
        return found | {f"band{b}": part.view(np.float32).ravel() for b, part in enumerate(seen)}

    def compare(self, final: list[np.ndarray], seen: list[np.ndarray]) -> Numbers:
        return self.phases(final, seen)[0]


class Gain(Bands):
    def read(self, seen: list[np.ndarray]) -> Numbers:
        return {}

    def compare(self, final: list[np.ndarray], seen: list[np.ndarray]) -> Numbers:
        found = {}
        for b, (x, y, size) in enumerate(zip(final, seen, self.sizes, strict=True)):
            found[f"cross{b}"], found[f"input{b}"] = np.vdot(y, x).real / size, np.vdot(x, x).real / size
        return found


class Structure:
    def __init__(self, shape: Shape) -> None:
        rows, columns = np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2])
        cycles = min(shape[1:]) * np.hypot(rows[:, None], columns)
        self.low = 2.0 * ((cycles > 0) & (cycles < 4 - 1e-9))
        self.low[:, [0, -1] if shape[2] % 2 == 0 else [0]] /= 2
        count = 1 + sum(min(shape[1:]) // 2**j > 10 for j in range(1, 5))
        self.scales = np.array(SCALES[:count]) / sum(SCALES[:count])

    def look(self, image: np.ndarray) -> Any:
        pixels, grey = eight_bit(image)
        edges = cv2.Canny(pixels, 100, 200) > 0
        return SimpleNamespace(image=image, grey=grey, edges=edges, bright=grey > threshold_otsu(grey))

    def read(self, seen: Any) -> Numbers:
        across, down = (
            cv2.Sobel(seen.grey, cv2.CV_32F, *order, borderType=cv2.BORDER_REPLICATE)
            for order in ((1, 0), (0, 1))
        )
        gradient = np.hypot(across, down) / (4 * np.sqrt(2))
        power = np.abs(np.fft.rfft2(luma(seen.image), norm="forward")) ** 2
        shares = np.bincount(seen.grey.ravel()) / seen.grey.size
        shares = shares[shares > 0]
        return {
            "edges": seen.edges.mean(),
            "edge_strength": gradient[seen.edges].mean() if seen.edges.any() else np.nan,
            "gradient": gradient.mean(),
            "sharpness": cv2.Laplacian(seen.grey, cv2.CV_32F).var(),
            "entropy": -(shares * np.log2(shares)).sum(),
            "low": (power * self.low).sum(),
        }

    def compare(self, final: Any, seen: Any) -> Numbers:
        first, second = final.bright, seen.bright
        if first.mean() > 0.5:
            first, second = ~first, ~second
        union = (first | second).sum()
        return {
            "ssim": structural_similarity(
                final.image,
                seen.image,
                channel_axis=0,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=2,
            ),
            "msssim": self.several_scales(final.image, seen.image),
            "silhouette": (first & second).sum() / union if union else np.nan,
            "edge_overlap": overlap(final.edges, seen.edges),
        }

    def several_scales(self, a: np.ndarray, b: np.ndarray) -> float:
        """MS-SSIM, which scikit-image does not have; blurs and halves by OpenCV."""
        product = np.ones(len(a))
        for j, weight in enumerate(self.scales):
            x, y = (np.ascontiguousarray(one.transpose(1, 2, 0)) for one in (a, b))
            inside = slice(5, x.shape[0] - 5), slice(5, x.shape[1] - 5)
            blurred = [cv2.GaussianBlur(one, (11, 11), 1.5)[inside] for one in (x, y, x * x, y * y, x * y)]
            mean_x, mean_y, xx, yy, xy = (np.atleast_3d(one) for one in blurred)
            power, shared = mean_x**2 + mean_y**2, mean_x * mean_y
            similarity = (2 * (xy - shared) + 0.06**2) / (xx + yy - power + 0.06**2)
            if j == len(self.scales) - 1:
                similarity *= (2 * shared + 0.02**2) / (power + 0.02**2)
            product *= np.maximum(similarity.mean((0, 1)), 0) ** weight
            a, b = (halved(one) for one in (x, y))
        return float(product.mean())


def halved(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    small = cv2.resize(pixels[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
    return np.atleast_3d(small).transpose(2, 0, 1)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    if not a.any() and not b.any():
        return np.nan
    around = [cv2.dilate(one.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0 for one in (b, a)]
    share_a, share_b = (a & around[0]).sum() / max(a.sum(), 1), (b & around[1]).sum() / max(b.sum(), 1)
    return 2 * share_a * share_b / (share_a + share_b) if share_a else 0.0


class Texture:
    def __init__(self, shape: Shape) -> None:
        from scipy.ndimage import gaussian_filter1d

        from turningpoint.measures._jets import ORDERS, REACH, SCALES

        self.filters = []
        for scale in SCALES:
            unit = np.zeros(2 * int(REACH * scale) + 1)
            unit[len(unit) // 2] = 1
            lines = [scale**k * gaussian_filter1d(unit, scale, 0, k, truncate=REACH)[::-1] for k in range(3)]
            self.filters += [(lines[along], lines[down]) for down, along in ORDERS]

    def look(self, image: np.ndarray) -> Any:
        return SimpleNamespace(image=image, gram=self.gram(image))

    def read(self, seen: Any) -> Numbers:
        grey = eight_bit(seen.image)[1]
        codes = local_binary_pattern(grey, 8, 1, "uniform").astype(int)
        pairs = graycomatrix(grey // 16, [1], ANGLES, 16, symmetric=True, normed=True)
        found = {
            name: graycoprops(pairs, name).mean() for name in ("contrast", "homogeneity", "energy", "entropy")
        }
        found["correlation"] = (
            np.nan if grey.min() // 16 == grey.max() // 16 else graycoprops(pairs, "correlation").mean()
        )
        gram = seen.gram if len(seen.image) == 1 else self.gram(luma(seen.image).astype(np.float32)[None])
        i, j = np.triu_indices(len(gram))
        found["gram"] = gram[i, j] * np.where(i == j, 1, np.sqrt(2))
        return found | {"patterns": np.sqrt(np.bincount(codes.ravel(), minlength=10) / codes.size)}

    def compare(self, final: Any, seen: Any) -> Numbers:
        return {"style": np.linalg.norm(final.gram - seen.gram) / len(seen.gram)}

    def gram(self, channels: np.ndarray) -> np.ndarray:
        responses = [
            cv2.sepFilter2D(channel, cv2.CV_32F, along, down, borderType=cv2.BORDER_REPLICATE)
            for channel in channels
            for along, down in self.filters
        ]
        flat = np.stack(responses).reshape(len(responses), -1)
        return flat @ flat.T / flat.shape[1]


class Lab:
    def __init__(self, shape: Shape) -> None:
        self.directions = np.array([[np.cos(angle), np.sin(angle)] for angle in ANGLES], np.float32)

    def look(self, image: np.ndarray) -> Any:
        shares = np.clip(image, -1, 1) / 2 + 0.5
        lab = rgb2lab(np.broadcast_to(shares, (3, *shares.shape[1:])), channel_axis=0)
        if len(image) == 1:
            lab[1:] = 0
        return SimpleNamespace(image=image, lab=lab, slices=np.sort(self.directions @ lab[1:].reshape(2, -1)))

    def read(self, seen: Any) -> Numbers:
        lightness, a, b = seen.lab
        chroma = np.hypot(a, b)
        sector = (np.arctan2(b, a) / (2 * np.pi) % 1 * 12).astype(int).clip(max=11)
        found = {
            "mean": seen.lab.mean((1, 2)),
            "chroma": chroma.mean(),
            "contrast": lightness.std(),
            "colorfulness": 0.0,
        }
        found["hue"] = np.bincount(sector.ravel(), chroma.ravel(), 12) / a.size
        if len(seen.image) == 3:
            red, green, blue = np.clip(seen.image, -1, 1) * 127.5
            first, second = red - green, (red + green) / 2 - blue
            found["colorfulness"] = np.hypot(first.std(), second.std()) + 0.3 * np.hypot(
                first.mean(), second.mean()
            )
        return found

    def compare(self, final: Any, seen: Any) -> Numbers:
        return {
            "distance": np.linalg.norm(final.lab - seen.lab, axis=0).mean(),
            "mean_distance": np.linalg.norm(final.lab.mean((1, 2)) - seen.lab.mean((1, 2))),
            "palette": np.abs(final.slices - seen.slices).mean(),
        }


class Color:
    def __init__(self, shape: Shape) -> None:
        pass

    def look(self, image: np.ndarray) -> np.ndarray:
        return image

    def read(self, seen: np.ndarray) -> Numbers:
        index = ((np.clip(seen, -1, 1) + 1) * 8).astype(int).clip(max=15)
        counts = np.stack([np.bincount(channel.ravel(), minlength=16) for channel in index])
        histogram = np.sqrt(counts / index[0].size).ravel()
        return {"mean": seen.mean((1, 2)), "contrast": luma(seen).std(), "histogram": histogram}

    def compare(self, final: np.ndarray, seen: np.ndarray) -> Numbers:
        return {}


class Wavelet:
    def __init__(self, shape: Shape) -> None:
        self.known = measure("wavelet", SimpleNamespace(shape=shape, decoded_shape=shape))
        self.name, self.levels = self.known.settings()["wavelet"], self.known.settings()["levels"]

    def look(self, image: np.ndarray) -> Any:
        return pywt.wavedec2(image, self.name, level=self.levels)

    def read(self, seen: Any) -> Numbers:
        approximation, *details = seen
        squares = [[np.vdot(part, part) for part in level] for level in details[::-1]]
        energies = [
            [value / level[0].size for value in row]
            for row, level in zip(squares, details[::-1], strict=True)
        ]
        sums = np.array(squares).sum(1)
        some = sums.sum() > FLOOR * 3 * sum(level[0].size for level in details)
        found: Numbers = {
            f"energy{k + 1}{letter}": value
            for k, row in enumerate(energies)
            for letter, value in zip("HVD", row, strict=True)
        }
        found["approximation"] = approximation.reshape(len(approximation), -1).var(1).mean()
        found["shares"] = sums / sums.sum() if some else np.full(len(sums), np.nan)
        return found | {"profile": np.log10(np.maximum(energies, FLOOR)).ravel()}

    def compare(self, final: Any, seen: Any) -> Numbers:
        return {}


class Spectrum(Bands):
    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        from turningpoint.measures.spectrum import plane

        flat = plane(*shape[1:])
        self.share, self.sectors, self.doubled = (
            part.numpy() for part in (flat.share, flat.sectors, flat.doubled)
        )
        self.groups = []
        band = measure("spectrum").bands.layout(*shape[1:]).band.flatten()  # type: ignore[attr-defined]
        for ring in (flat.ring.numpy(), band.numpy()):
            inside = np.flatnonzero(ring >= 0)
            self.groups.append((inside, ring[inside], np.bincount(ring[inside], self.share[inside])))
        self.log_f = np.log(np.arange(1, len(self.groups[0][2])))

    def look(self, image: np.ndarray) -> Any:
        spectrum = np.fft.rfft2(image, norm="ortho").reshape(self.channels, -1)
        parts = self.parts(spectrum)
        return SimpleNamespace(parts=parts, spectrum=spectrum)

    def read(self, seen: Any) -> Numbers:
        counted = (np.abs(seen.spectrum) ** 2).mean(0) * self.share
        rings, energies = (np.bincount(ring, counted[inside]) / count for inside, ring, count in self.groups)
        total = counted.sum() - counted[0]
        some = total > FLOOR * self.share.sum()
        there = rings[1:] > FLOOR
        slope = np.polyfit(self.log_f[there], np.log(rings[1:][there]), 1)[0] if there.sum() > 1 else np.nan
        found = {
            "power": rings,
            "slope": slope,
            "orientation": counted @ self.sectors / total if some else np.full(8, np.nan),
            "anisotropy": min(1.0, np.linalg.norm(counted @ self.doubled / total)) if some else 0.0,
        }
        return found | {f"energy{b}": value for b, value in enumerate(energies)}

    def compare(self, final: Any, seen: Any) -> Numbers:
        phase, amplitude = self.phases(final.parts, seen.parts)
        return phase | amplitude


class Class:
    """The digits' classifier, a network, called with one image."""

    def __init__(self, classify: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.classify = classify

    @torch.inference_mode()
    def look(self, image: np.ndarray) -> int:
        return int(self.classify(torch.from_numpy(image)[None]).argmax())

    def read(self, seen: int) -> Numbers:
        return {"": seen}

    def compare(self, final: int, seen: int) -> Numbers:
        return {}


READERS: dict[str, Callable[[Shape], Reader]] = {
    "frequency": Frequency,
    "gain": Gain,
    "structure": Structure,
    "texture": Texture,
    "lab": Lab,
    "color": Color,
    "wavelet": Wavelet,
    "spectrum": Spectrum,
}
