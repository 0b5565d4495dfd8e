"""Tests of the quantiser and of the image VQ-VAE."""

from __future__ import annotations

import pytest
import torch

from lass import LassError
from lass.artifacts import fingerprint, load_artifact
from lass.codecs import Codec, ImageVQVAE, VectorQuantizer, codebook_of, load_codec
from lass.data.sources import Sources
from lass.tasks import VQVAETraining

#: Tolerance for values of order 1 in float32 after at most ten layers: CPUs and BLAS libraries differ by about 1e-6.
CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture
def codec():
    torch.manual_seed(0)
    return ImageVQVAE(image_shape=(3, 12, 8), num_codes=10, width=8, latent_dim=5).eval()


def test_lookup_finds_the_nearest_vector():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(20, 4)
    latents = torch.randn(3, 4, 5, 6)
    codes = quantizer.lookup(latents)
    for b, i, j in [(0, 0, 0), (2, 4, 5), (1, 3, 2)]:
        distances = [(latents[b, :, i, j] - vector).norm() for vector in quantizer.codebook]
        assert codes[b, i, j] == torch.stack(distances).argmin()
    assert torch.equal(quantizer.embed(codes)[1, :, 3, 2], quantizer.codebook[codes[1, 3, 2]])


@pytest.mark.parametrize("space", [(7,), (3, 4), (2, 3, 2)])
def test_any_grid_works(space):
    quantizer = VectorQuantizer(6, 4).eval()
    output = quantizer(torch.randn(2, 4, *space))
    assert output.codes.shape == (2, *space)
    assert output.quantized.shape == (2, 4, *space)


def test_gradient_passes_straight_through():
    quantizer = VectorQuantizer(6, 4).eval()
    latents = torch.randn(2, 4, 3, requires_grad=True)
    quantized = quantizer(latents).quantized
    torch.testing.assert_close(quantized, quantizer.embed(quantizer.lookup(latents)), **CLOSE)
    weights = torch.randn_like(quantized)
    (quantized * weights).sum().backward()
    torch.testing.assert_close(latents.grad, weights, **CLOSE)


def test_commitment_loss_pulls_the_encoder_only():
    quantizer = VectorQuantizer(6, 4).eval()
    latents = torch.randn(2, 4, 3, requires_grad=True)
    output = quantizer(latents)
    output.commitment_loss.backward()
    expected = 2 * (latents - quantizer.embed(output.codes)) / latents.numel()
    torch.testing.assert_close(latents.grad, expected.detach(), **CLOSE)


def test_codebook_moves_to_the_mean_of_its_latents():
    """Four well-separated clusters: the codebook converges to the cluster means, and no code stays dead."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    centres = torch.tensor([[10.0, 0], [0, 10], [-10, 0], [0, -10]])
    quantizer = VectorQuantizer(4, 2, decay=0.8).train()
    for _ in range(300):
        cluster = torch.randint(4, (256,), generator=generator)
        quantizer((centres[cluster] + 0.1 * torch.randn(256, 2, generator=generator))[..., None])
    nearest = torch.cdist(centres, quantizer.codebook).min(1)
    assert nearest.values.max() < 0.1
    assert sorted(nearest.indices.tolist()) == [0, 1, 2, 3]


def test_evaluation_changes_nothing(codec):
    before = fingerprint(codec)
    codec(torch.rand(2, 3, 12, 8))
    assert fingerprint(codec) == before
    codec.train()(torch.rand(2, 3, 12, 8))
    assert fingerprint(codec) != before


def test_codec_keeps_its_contract(codec):
    images = torch.rand(4, 3, 12, 8)
    codes = codec.encode(images)
    assert isinstance(codec, Codec)
    assert codes.shape == (4, *codec.grid) == (4, 3, 2)
    assert codes.dtype == torch.long
    assert codec.embed(codes).shape == (4, 5, 3, 2)
    decoded = codec.decode(codes)
    assert decoded.shape == images.shape
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    torch.testing.assert_close(decoded, codec.decode_latents(codec.embed(codes)), **CLOSE)
    torch.testing.assert_close(codec(images).reconstruction, decoded, **CLOSE)


def test_a_code_depends_on_its_own_image_only(codec):
    images = torch.rand(5, 3, 12, 8)
    together, alone = codec.encode_latents(images), codec.encode_latents(images[3:4])
    torch.testing.assert_close(together[3:4], alone, **CLOSE)
    assert (together[2:3] - alone).abs().max() > 0.01


def test_codes_of_a_patch_encoder_see_their_own_patch_only():
    torch.manual_seed(0)
    image = torch.rand(1, 1, 12, 16)
    for patch_encoder in (True, False):
        codec = ImageVQVAE((1, 12, 16), num_codes=10, width=8, patch_encoder=patch_encoder).eval()
        elsewhere = image.clone()
        elsewhere[..., 8:, :] = torch.rand(4, 16)
        before, after = codec.encode_latents(image), codec.encode_latents(elsewhere)
        difference = (before - after).abs().amax((0, 1, 3))  # per row of codes; rounding errors are 1e-7
        assert difference[2] > 1e-3
        assert (difference[:2].max() < 1e-6) == patch_encoder
        assert codec.grid == (3, 4)


class LinearCodec(ImageVQVAE):
    """Codec with a linear encoder: latents of a mixture are the mean of the latents of its sources."""

    def encode_latents(self, signal):
        return torch.nn.functional.avg_pool2d(signal, 4).expand(-1, self.config["latent_dim"], -1, -1)


@pytest.mark.parametrize("kind", [LinearCodec, ImageVQVAE])
def test_linearity_is_the_distance_of_mixed_latents(kind, monkeypatch):
    torch.manual_seed(0)
    codec = kind((1, 8, 8), num_codes=6, width=8, latent_dim=4)
    batch = Sources(torch.rand(6, 1, 8, 8), torch.zeros(6, dtype=torch.long))
    losses, logged = [], {}
    for weight in (0.0, 0.5):
        task = VQVAETraining(codec, linearity=weight).eval()  # no update of the codebook
        monkeypatch.setattr(task, "log_dict", logged.update)
        losses.append(task.training_step(batch).item())
    latents = codec.encode_latents(batch.signals)
    squares = []
    for i in range(3):  # half the batch is mixed, each source with its predecessor
        mixed = codec.encode_latents((batch.signals[i] + batch.signals[i - 1])[None] / 2)[0]
        squares.append((mixed - (latents[i] + latents[i - 1]) / 2).square().mean())
    deviation = torch.stack(squares).mean() / latents.movedim(1, 0).flatten(1).var(1).mean()
    assert (deviation < 1e-10) == (kind is LinearCodec)
    torch.testing.assert_close(logged["train/nonlinearity"], deviation, atol=1e-6, rtol=1e-4)
    assert losses[1] - losses[0] == pytest.approx(0.5 * deviation.item(), abs=1e-5)


@pytest.mark.parametrize("weights", [None, [0.5, 0.3, 0.2], [0.3, 0.1, 0.2, 0.1]])
def test_linearity_of_more_sources_compares_mixtures_of_two_to_that_many(weights, monkeypatch):
    torch.manual_seed(0)
    codec = ImageVQVAE((1, 8, 8), num_codes=6, width=8, latent_dim=4)
    batch = Sources(torch.rand(6, 1, 8, 8), torch.zeros(6, dtype=torch.long))
    latents = codec.encode_latents(batch.signals)
    expected = {}
    for num_sources in (2, 3):
        # The first weights, with the sum of all weights.
        first = torch.tensor((weights or [1.0] * num_sources)[:num_sources])
        scaled = first / first.sum() * (sum(weights) if weights else 1)
        squares = []
        for i in range(3):
            mixture = sum(weight * batch.signals[i - shift] for shift, weight in enumerate(scaled))
            mixed_latents = sum(weight * latents[i - shift] for shift, weight in enumerate(scaled))
            squares.append((codec.encode_latents(mixture[None])[0] - mixed_latents).square().mean())
        expected[num_sources] = torch.stack(squares).mean() / latents.movedim(1, 0).flatten(1).var(1).mean()
    task = VQVAETraining(codec, linearity=0.5, linearity_sources=3).eval()
    task.weights, logged = weights, {}
    monkeypatch.setattr(task, "log_dict", logged.update)
    drawn = []
    for _ in range(20):
        task.training_step(batch)
        found = [torch.isclose(logged["train/nonlinearity"], each, rtol=1e-4) for each in expected.values()]
        assert sum(found) == 1
        drawn.append(found.index(True))
    assert set(drawn) == {0, 1}  # each number of sources has probability 1/2: both occur but for one run in 500,000


def test_a_single_source_is_no_reason_for_a_loss_that_is_no_number(monkeypatch):
    """The last batch of an epoch may hold one source, so no mixtures for the linearity loss; the loss stays finite."""
    task = VQVAETraining(ImageVQVAE((1, 8, 8), num_codes=6, width=8, latent_dim=4), linearity=0.5)
    monkeypatch.setattr(task, "log_dict", lambda scores: None)
    assert task.training_step(Sources(torch.rand(1, 1, 8, 8), torch.zeros(1, dtype=torch.long))).isfinite()
    with pytest.raises(LassError, match="needs a mixture_share above 0"):
        VQVAETraining(ImageVQVAE(), mixture_share=0.0, linearity=0.5)


def test_saved_codec_is_the_same(codec, tmp_path):
    again = load_codec(codec.save_pretrained(tmp_path))
    images = torch.rand(2, 3, 12, 8)
    torch.testing.assert_close(again.encode_latents(images), codec.encode_latents(images), **CLOSE)
    assert fingerprint(again) == fingerprint(codec)
    assert again.config == codec.config


def test_wrong_sizes_are_refused(codec):
    with pytest.raises(LassError, match="3×12×8, but got 3×8×8"):
        codec.encode(torch.rand(1, 3, 8, 8))
    with pytest.raises(LassError, match="multiples of 4"):
        ImageVQVAE(image_shape=(1, 28, 30))


def test_damaged_and_foreign_folders_are_refused(codec, tmp_path):
    folder = tmp_path / "runs" / "mnist" / "vqvae" / "codec"
    with pytest.raises(LassError, match=r"There is no codec at .*make train-vqvae DATASET=mnist"):
        load_codec(folder)
    codec.save_pretrained(folder)
    with pytest.raises(LassError, match="holds a ImageVQVAE, not a prior"):
        load_artifact(folder, "prior")
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LassError, match="damaged"):
        load_codec(folder)
    weights.write_bytes(whole)
    text = config.read_text()
    config.write_text(text.replace('"num_codes": 10', '"num_codes": 11'))
    with pytest.raises(LassError, match="do not have the fingerprint they were saved with"):
        load_codec(folder)
    with pytest.raises(LassError, match="do not belong together"):
        load_artifact(folder, "codec", verify=False)
    config.write_text(text.replace("ImageVQVAE", "SomebodysVQVAE"))
    with pytest.raises(LassError, match="'SomebodysVQVAE', which is not among the known"):
        load_codec(folder)
    config.write_text(text.replace('"width": 8', '"breadth": 8'))
    with pytest.raises(LassError, match="describes no ImageVQVAE of this version"):
        load_artifact(folder, "codec", verify=False)
    config.write_text("{")
    with pytest.raises(LassError, match="damaged"):
        load_codec(folder)


def test_the_codebook_is_an_attribute_or_every_embedded_code():
    """A codec without base class: its codebook is used as it is; with a grid only, every code is embedded."""

    class Plain:
        num_codes = 3

        def encode(self, signal):
            raise NotImplementedError

        decode_latents = decode = encode

        def embed(self, codes):
            return torch.eye(3)[codes].movedim(-1, 1)

    codec = Plain()
    assert codebook_of(codec) is None
    codec.grid = (2, 2)
    assert torch.equal(codebook_of(codec), torch.eye(3))
    codec.codebook = torch.ones(3, 5)
    assert codebook_of(codec) is codec.codebook
