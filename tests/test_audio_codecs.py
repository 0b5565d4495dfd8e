"""The audio VQ-VAE, and Jukebox's against vectors from its own code (tests/golden/jukebox.py made them)."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from dangerous import Dangerous
from safetensors.torch import load_file

from lass import LassError
from lass.artifacts import fingerprint
from lass.cli import main
from lass.codecs import AudioVQVAE, JukeboxVQVAE, codebook_of, load_codec
from lass.codecs.jukebox import read_jukebox

GOLDEN = Path(__file__).parent / "golden" / "jukebox.safetensors"


@pytest.fixture
def codec():
    torch.manual_seed(0)
    return AudioVQVAE(8000, 16, strides=(4, 2), width=8, latent_dim=6).eval()


@pytest.mark.parametrize("num_samples", [8, 9, 15, 16, 17, 1000, 1001, 1007])
def test_odd_lengths_are_rounded_up_to_whole_codes(codec, num_samples):
    signal = torch.randn(2, 1, num_samples)
    codes = codec.encode(signal)
    assert codes.shape == (2, -(-num_samples // 8))
    assert codec.decode(codes).shape == (2, 1, codes.shape[1] * 8)
    padded = torch.nn.functional.pad(signal, (0, -num_samples % 8))
    assert torch.equal(codes, codec.encode(padded))
    assert codec(signal).reconstruction.shape == signal.shape


@pytest.mark.parametrize(
    "make", [lambda: AudioVQVAE(8000, 16, (4, 4, 2), 8, 6), lambda: JukeboxVQVAE((2, 1), (2, 2), 8, 2)]
)
def test_a_position_sees_its_margin_and_no_more(make):
    """By gradients: what a latent depends on, and what a latent changes."""
    codec = make().eval()
    hop, middle, length = codec.hop, 60, 120
    signal = torch.randn(1, 1, length * hop, requires_grad=True)
    codec.encode_latents(signal)[0, :, middle].sum().backward()
    seen = signal.grad[0, 0].view(length, hop).abs().amax(1).nonzero()[:, 0]
    assert middle - codec.margin <= seen.min() < middle < seen.max() <= middle + codec.margin
    latents = torch.randn(1, codec.config["latent_dim"], length, requires_grad=True)
    codec.decode_latents(latents)[0, 0, middle * hop : (middle + 1) * hop].sum().backward()
    seen = latents.grad[0].abs().amax(0).nonzero()[:, 0]
    assert middle - codec.margin <= seen.min() < middle < seen.max() <= middle + codec.margin


def test_codes_are_the_nearest_vectors(codec):
    latents = codec.encode_latents(torch.randn(2, 1, 80))
    distances = (latents[:, :, None] - codebook_of(codec).T[None, :, :, None]).square().sum(1)
    assert torch.equal(codec.quantizer.lookup(latents), distances.argmin(1))
    assert torch.equal(codec.embed(torch.tensor([[3, 5]]))[0].T, codebook_of(codec)[[3, 5]])


def test_it_survives_its_folder(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    again = load_codec(tmp_path)
    assert again.config == codec.config
    assert fingerprint(again) == fingerprint(codec)


def test_wrong_signals_and_strides_are_refused(codec):
    with pytest.raises(LassError, match="mono signals of at least 8 samples, but got 2 channels of 80"):
        codec.encode(torch.zeros(1, 2, 80))
    with pytest.raises(LassError, match="got 1 channels of 7 samples"):
        codec.encode(torch.zeros(1, 1, 7))
    for strides in ((4, 3), (1,), ()):
        with pytest.raises(LassError, match="strides must be even numbers"):
            AudioVQVAE(strides=strides)


@pytest.fixture
def checkpoint(tmp_path):
    """As Jukebox publishes its own, in small."""
    golden = load_file(GOLDEN)
    weights = {name.removeprefix("weights."): x for name, x in golden.items() if name.startswith("weights.")}
    path = tmp_path / "vqvae.pth.tar"
    torch.save({"model": {f"module.{name}": x for name, x in weights.items()}, "step": 1, "hps": {"l_bins": 12}}, path)
    return path


@pytest.mark.parametrize("level", [0, 1, 2])
def test_jukebox_gives_what_its_own_code_gives(checkpoint, level):
    golden = load_file(GOLDEN)
    codec = read_jukebox(checkpoint, level, upsampling=1)
    assert codec.hop == [8, 32, 128][level]
    assert torch.equal(codec.encode(golden["signal"]), golden[f"codes.{level}"].long())
    with torch.no_grad():
        torch.testing.assert_close(codec.decode(golden[f"codes.{level}"].long()), golden[f"decoded.{level}"])


def test_half_the_native_rate_is_reached_by_linear_interpolation(checkpoint):
    native, half = read_jukebox(checkpoint, 2, 1), read_jukebox(checkpoint, 2, 2)
    assert (native.sample_rate, half.sample_rate, half.hop) == (44100, 22050, 64)
    signal = torch.randn(1, 1, 640)
    before = torch.cat([signal[..., :1], signal[..., :-1]], -1)  # the signal goes on as it begins and ends
    after = torch.cat([signal[..., 1:], signal[..., -1:]], -1)
    doubled = torch.stack([0.25 * before + 0.75 * signal, 0.75 * signal + 0.25 * after], -1).flatten(-2)
    assert torch.equal(half.encode(signal), native.encode(doubled))
    codes = half.encode(signal)
    torch.testing.assert_close(half.decode(codes), native.decode(codes).unflatten(-1, (-1, 2)).mean(-1))


def test_import_from_the_shell(checkpoint, tmp_path, capsys):
    main(["import", "jukebox", str(checkpoint), "--level", "2", "--out", str(tmp_path / "codec")])
    assert "a codec with 12 codes for mono audio at 22050 Hz, one code for every 64 samples" in capsys.readouterr().out
    assert fingerprint(load_codec(tmp_path / "codec")) == fingerprint(read_jukebox(checkpoint, 2))
    with pytest.raises(SystemExit, match="is there already"):
        main(["import", "jukebox", str(checkpoint), "--out", str(tmp_path / "codec")])


def test_other_files_are_refused(checkpoint, tmp_path):
    with pytest.raises(LassError, match=r"has the levels 0, 1, 2, so --level must be one of them, not 3"):
        read_jukebox(checkpoint, 3)
    with pytest.raises(LassError, match="There is no checkpoint at"):
        read_jukebox(tmp_path / "nothing")
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(LassError, match=r"no VQ-VAE of Jukebox: expected weights called encoders\.0"):
        read_jukebox(tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(LassError, match="holds a list: expected a dictionary with weights"):
        read_jukebox(tmp_path / "list.pth")
    loaded = torch.load(checkpoint, weights_only=True)
    del loaded["model"]["module.encoders.2.level_blocks.1.model.0.1.model.0.model.1.bias"]
    torch.save(loaded, tmp_path / "less.pth")
    with pytest.raises(LassError, match="no VQ-VAE of Jukebox with the layers of level 2"):
        read_jukebox(tmp_path / "less.pth")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"model": Dangerous(tmp_path / "harm")}))
    with pytest.raises(LassError, match="damaged, or holds more than weights"):
        read_jukebox(tmp_path / "bad.pth")
    assert not (tmp_path / "harm").exists()
