"""Fitting of the codebook of a spectrogram codec, on clusters that are known and through the command line."""

from __future__ import annotations

import pytest
import torch
from tiny_datasets import write_tiny_slakh

from lass import LassError
from lass.cli.main import main
from lass.codecs import AudioVQVAE, SpectrogramCodec, load_codec
from lass.data.sources import Sources, SourceTuples
from lass.likelihood import LogSumMoments
from lass.tasks import CodebookFitting, LikelihoodCounting


@pytest.fixture
def fit(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny_slakh(tmp_path, seconds=3.2, rate=22050)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    config = str(repository / "experiments/slakh_spectrogram/vqvae.yaml")
    options = ["--trainer.enable_progress_bar=false", "--model.codec.init_args.codes_per_band=8", "--data.batch_size=2"]
    return lambda *words: main(["fit", "-c", config, *options, *words])


def test_the_stage_saves_a_codec_that_fits_its_sources(fit):
    fit()
    codec = load_codec("runs/slakh_spectrogram/vqvae/codec")
    assert isinstance(codec, SpectrogramCodec)
    assert codec.num_codes == 32
    assert codec.codebook.isfinite().all()
    assert (codec.codebook.unflatten(0, (4, 8)).var(1).sum(-1) > 1e-3).all()  # different codes in each group


def test_a_dry_run_writes_nothing(fit, tmp_path):
    fit("--trainer.fast_dev_run=true")
    assert not (tmp_path / "runs/slakh_spectrogram/vqvae/codec").exists()


def test_too_few_blocks_and_tuples_are_refused(fit):
    with pytest.raises(SystemExit):
        fit("--model.codec.init_args.codes_per_band=4096")
    with pytest.raises(LassError, match=r"max_vectors must be an integer, at least 512"):
        CodebookFitting(SpectrogramCodec(), max_vectors=10)
    with pytest.raises(LassError, match=r"fitted to single sources"):
        CodebookFitting(SpectrogramCodec()).training_step(torch.zeros(1))


def test_clusters_are_found(monkeypatch):
    """Latents of each group lie near one of four centres; k-means must put a code near each."""
    generator = torch.Generator().manual_seed(0)
    codec = SpectrogramCodec(8000, codes_per_band=4, num_bands=2, num_mels=4, num_frames=2, window=64)
    centres = 10 * torch.randn(2, 4, 4, generator=generator)  # (G, K, d)
    which = torch.randint(4, (50, 20, 2), generator=generator)
    latents = centres[torch.arange(2), which].flatten(1, 2) + 0.1 * torch.randn(50, 40, 4, generator=generator)
    monkeypatch.setattr(codec, "encode_latents", lambda signals: latents.movedim(-1, 1))
    task = CodebookFitting(codec)
    monkeypatch.setattr(task, "log", lambda *_, **__: None)
    monkeypatch.setattr("lass.tasks.codebook.is_dry_run", lambda trainer: True)
    monkeypatch.setattr(type(task), "trainer", None)
    task.on_train_epoch_start()
    task.training_step(Sources(torch.zeros(50, 1, 640), torch.zeros(50, dtype=torch.long)))
    task.on_train_epoch_end()
    distances = torch.cdist(centres, codec.codebook.unflatten(0, (2, 4)))
    assert distances.amin(2).max() < 0.2


def test_the_likelihood_of_sums_is_counted_from_the_same_pairs(tmp_path):
    """Two batches through the counting stage, against one call with all positions."""
    generator = torch.Generator().manual_seed(1)
    codec = SpectrogramCodec(8000, codes_per_band=4, num_bands=2, num_mels=4, num_frames=2, window=64)
    codec.codebook.normal_(generator=generator)
    codec.save_pretrained(tmp_path)
    task = LikelihoodCounting(str(tmp_path), log_sum=True, symmetric=False)
    signals = 0.1 * torch.randn(6, 2, 1, 320, generator=generator)
    for batch in signals.split(3):
        task.training_step(SourceTuples(batch, torch.zeros(3, 2, dtype=torch.long), torch.arange(3)))
    task._merge()
    expected = LogSumMoments(8, 4, 2, codec.floor)
    mixtures = signals.mean(1)
    vectors = torch.stack([codec.embed(codec.encode(x)).mT.flatten(0, 1) for x in signals.unbind(1)], 1)
    expected.add(codec.encode(mixtures).flatten(), vectors, codec.encode_latents(mixtures).mT.flatten(0, 1))
    for name, sums in expected.state_dict().items():
        torch.testing.assert_close(task.merged["log_sum.safetensors"].state_dict()[name], sums, msg=name)


def test_sums_of_powers_need_a_codec_of_powers(tmp_path):
    AudioVQVAE(8000, 4, strides=(2, 2), width=8, latent_dim=4).save_pretrained(tmp_path)
    with pytest.raises(LassError, match=r"The latents of a AudioVQVAE are no log powers: set --model.log_sum=false"):
        LikelihoodCounting(str(tmp_path), log_sum=True)
