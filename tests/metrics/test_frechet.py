"""Tests of Fréchet distances against closed form, SciPy and torchmetrics' FID; and of the trained image features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from lass import LassError
from lass.metrics import ImageFeatures
from lass.metrics.frechet import (
    INCEPTION_URL,
    FrechetDistances,
    InceptionFeatures,
    find_inception_weights,
    inception_cache,
)
from lass.tasks.features import FeatureTraining, random_view


class Pixels(nn.Module):
    """Feature network that returns the four pixels of an image."""

    num_features = 4

    def forward(self, images):
        return images.flatten(1)


def images_of(generator, num, mean, deviation):
    """Gaussian images of 2×2 pixels, far enough from 0 and 1 that clipping has no effect."""
    return mean + deviation * torch.randn(num, 4, generator=generator).view(num, 1, 2, 2)


def by_hand(real, fake):
    """Reference: |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½), with SciPy's matrix square root."""
    real, fake = (x.flatten(1).double().numpy() for x in (real, fake))
    first, second = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    root = sqrtm(first @ second).real
    return ((real.mean(0) - fake.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)


def test_gaussians_give_the_closed_form():
    """Independent pixels N(m, s²): the distance is d (m₁ − m₂)² + d (s₁ − s₂)²; 20,000 samples, within 5 %."""
    generator = torch.Generator().manual_seed(0)
    distances = FrechetDistances(Pixels(), ["moved", "wider", "same"])
    distances.update(
        images_of(generator, 20_000, 0.5, 0.02),
        {
            "moved": images_of(generator, 20_000, 0.6, 0.02),
            "wider": images_of(generator, 20_000, 0.5, 0.08),
            "same": images_of(generator, 20_000, 0.5, 0.02),
        },
    )
    found = distances.compute()
    assert found["moved"] == pytest.approx(4 * 0.1**2, rel=0.05)
    assert found["wider"] == pytest.approx(4 * 0.06**2, rel=0.05)
    assert abs(found["same"]) < 1e-5


def test_batches_add_up_to_scipys_route():
    """Correlated pixels, two sets, batches of different sizes.

    Moments are accumulated in float64, but pixels are float32, with errors of 6e-8 of 0.5: 1e-6 of the distance.
    """
    generator = torch.Generator().manual_seed(0)
    blend = torch.randn(4, 4, generator=generator) * 0.05

    def correlated(num, mean):
        return mean + (torch.randn(num, 4, generator=generator) @ blend).view(num, 1, 2, 2)

    real, one, other = correlated(300, 0.5), correlated(300, 0.55), images_of(generator, 300, 0.4, 0.02)
    distances = FrechetDistances(Pixels(), ["one", "other"])
    for part in (slice(0, 7), slice(7, 150), slice(150, 300)):
        distances.update(real[part], {"one": one[part], "other": other[part]})
    found = distances.compute()
    assert found["one"] == pytest.approx(by_hand(real, one), rel=1e-4)
    assert found["other"] == pytest.approx(by_hand(real, other), rel=1e-4)
    assert distances.least_images == 5


def test_values_outside_are_clipped_as_a_file_would():
    inside, outside = torch.full((3, 1, 2, 2), 1.0), torch.full((3, 1, 2, 2), 1.7)
    distances = FrechetDistances(Pixels(), ["outside"])
    distances.update(inside, {"outside": outside})
    assert distances.compute()["outside"] == pytest.approx(0.0, abs=1e-12)


def test_with_inception_it_is_torchmetrics_own_fid(random_inception):
    """On 64 features of an early layer, for speed. Grey images are expanded to three equal channels.

    With five images, most of the 64 eigenvalues are 0, and the square roots of their rounding errors add up: the
    tolerance is 1e-3.
    """
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randint(high, (5, 3, 16, 16), generator=generator) for high in (256, 128))
    distances = FrechetDistances(InceptionFeatures(random_inception, 64), ["fake"])
    distances.update(real / 255, {"fake": fake / 255})
    theirs = FrechetInceptionDistance(64, feature_extractor_weights_path=str(random_inception))
    theirs.update(real.byte(), real=True)
    theirs.update(fake.byte(), real=False)
    assert distances.compute()["fake"] == pytest.approx(theirs.compute().item(), rel=1e-3)
    grey = real[:, :1] / 255
    # The memory layout may change the order of summation: the tolerance is 1e-5 of the largest feature, a hundred
    # float32 roundings.
    features, repeated = distances.network(grey), distances.network(grey.repeat(1, 3, 1, 1))
    torch.testing.assert_close(features, repeated, atol=1e-5 * features.abs().max().item(), rtol=0)


def test_inception_weights_are_found_where_they_are(random_inception, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert find_inception_weights() is None
    inception_cache().parent.mkdir(parents=True)
    inception_cache().write_bytes(b"weights")
    assert find_inception_weights() == inception_cache()
    assert find_inception_weights(random_inception) == random_inception
    with pytest.raises(LassError, match=f"no Inception weights at nowhere.pth: download {INCEPTION_URL}"):
        find_inception_weights("nowhere.pth")


class Trap:
    def __reduce__(self):
        return (open, ("trap-was-sprung", "w"))


@pytest.mark.parametrize("content", ["text", "other", "trap", "number", "stack", "memo"])
def test_files_that_are_something_else_are_refused_unopened(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    bad_bytes = {"text": b"not a checkpoint", "number": b"I9a\n.", "stack": b"\x80\x02.", "memo": b"h\x07."}
    if content in bad_bytes:
        (tmp_path / "weights.pth").write_bytes(bad_bytes[content])
    else:
        torch.save({"other": torch.zeros(3)} if content == "other" else {"x": Trap()}, tmp_path / "weights.pth")
    with pytest.raises(LassError, match="holds no Inception weights: replace it by") as error:
        InceptionFeatures(tmp_path / "weights.pth")
    assert "weights_only" not in str(error.value)
    assert not (tmp_path / "trap-was-sprung").exists()


# ---- ImageFeatures and its training


def test_features_are_saved_and_take_grey_and_colour(tmp_path):
    torch.manual_seed(0)
    features = ImageFeatures(num_features=8, width=8).eval()
    again = ImageFeatures.from_pretrained(features.save_pretrained(tmp_path))
    for shape in ((2, 3, 32, 32), (2, 1, 28, 28)):
        images = torch.rand(shape)
        expected = features(images)
        assert expected.shape == (2, 8)
        # Memory alignment may change the order of summation: 1e-5 of the largest feature, a hundred float32 roundings.
        torch.testing.assert_close(again(images), expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


def test_views_are_parts_of_the_image_and_stay_in_range():
    torch.manual_seed(0)
    column = torch.linspace(0, 1, 32).expand(400, 3, 32, 32).clone()  # brightness rises from left to right
    views = random_view(column)
    assert views.min() >= 0
    assert views.max() <= 1
    rising = (views[..., 24:].mean((1, 2, 3)) > views[..., :8].mean((1, 2, 3))).float().mean()
    assert 0.42 < rising < 0.58  # half are mirrored; 0.08 is about three standard deviations (0.025)
    span = (views.amax((1, 2, 3)) - views.amin((1, 2, 3))).sort().values
    assert span[20] < 0.8 < span[-20]  # crops of different sizes


def test_views_are_found_again_after_a_little_training():
    """Top-1 accuracy of finding the other view among 31 candidates; chance level 1/31."""
    torch.manual_seed(0)
    images = torch.rand(16, 3, 3, 3).repeat_interleave(6, 2).repeat_interleave(6, 3)
    task = FeatureTraining(ImageFeatures(num_features=16, width=8))
    optimizer = torch.optim.Adam(task.parameters(), 3e-3)
    scores = []
    for _ in range(120):
        loss, top_1 = task._compare(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scores.append(top_1.item())
    assert np.mean(scores[:3]) < 0.5 < 0.7 < np.mean(scores[-10:])
