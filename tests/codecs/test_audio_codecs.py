"""Tests of the audio VQ-VAE and of Jukebox's, against outputs of its original code (tests/golden/jukebox.py).

After some twenty layers in float32, outputs of different CPUs or BLAS libraries differ by about 1e-6 of the largest
value; a wrong weight changes outputs by more than 1e-2. Hence `assert_close_to` allows 1e-4 of the largest value.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from dangerous import Dangerous
from safetensors.torch import load_file, save_file

from lass import LassError
from lass.artifacts import fingerprint
from lass.cli.main import main
from lass.codecs import AudioVQVAE, JukeboxVQVAE, codebook_of, load_codec
from lass.importers.jukebox import read_jukebox


def assert_close_to(given, expected):
    """Assert equality up to 1e-4 of the largest expected value."""
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


GOLDEN = Path(__file__).parent.parent / "golden" / "jukebox.safetensors"


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
    """Receptive fields of encoder and decoder, measured with gradients."""
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
    latents = torch.randn(2, 6, 10)
    distances = (latents[:, :, None] - codebook_of(codec).T[None, :, :, None]).square().sum(1)
    chosen = distances.gather(1, codec.quantizer.lookup(latents)[:, None])[:, 0]
    assert_close_to(chosen, distances.amin(1))  # at a tie, either code is correct
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
    """Small checkpoint in the format of the published one."""
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
    codes = golden[f"codes.{level}"].long()
    assert codes.unique().numel() == 12  # all codes occur, none near a tie (see the script)
    assert torch.equal(codec.encode(golden["signal"]), codes)
    with torch.no_grad():
        assert_close_to(codec.decode(codes), golden[f"decoded.{level}"])


def test_half_the_native_rate_is_reached_by_linear_interpolation(checkpoint):
    native, half = read_jukebox(checkpoint, 2, 1), read_jukebox(checkpoint, 2, 2)
    assert (native.sample_rate, half.sample_rate, half.hop) == (44100, 22050, 64)
    signal = torch.randn(1, 1, 640)
    before = torch.cat([signal[..., :1], signal[..., :-1]], -1)  # replicate padding at both ends
    after = torch.cat([signal[..., 1:], signal[..., -1:]], -1)
    doubled = torch.stack([0.25 * before + 0.75 * signal, 0.75 * signal + 0.25 * after], -1).flatten(-2)
    with torch.no_grad():
        assert_close_to(half.encode_latents(signal), native.encode_latents(doubled))
        codes = half.encode(signal)
        assert_close_to(half.decode(codes), native.decode(codes).unflatten(-1, (-1, 2)).mean(-1))


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
    with pytest.raises(LassError, match=r"level 2|is missing"):
        read_jukebox(tmp_path / "less.pth")


@pytest.mark.parametrize("value", [-1, 0, 2.5, "3", None, 10**400, [3], 10**6], ids=lambda value: f"{value!s:.9}")
def test_settings_of_a_checkpoint_are_checked(checkpoint, value):
    loaded = torch.load(checkpoint, weights_only=True)
    torch.save({**loaded, "hps": {"dilation_growth_rate": value}}, checkpoint)
    with pytest.raises(LassError, match="an integer from 1 to 100 as dilation_growth_rate") as error:
        read_jukebox(checkpoint)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("encoders.2.level_blocks.0.model.0.0.weight", torch.zeros(3_000_000, 1, 4)),  # as a layer width: 36 TB
        ("encoders.2.level_blocks.0.model.0.0.weight", torch.zeros(4)),
        ("encoders.2.level_blocks.999999999.model.0.0.weight", torch.zeros(1)),
        ("encoders.2.level_blocks.0.model.0.1.model.999999999.model.1.bias", torch.zeros(1)),
        ("encoders.999999999.level_blocks.0.model.0.0.weight", torch.zeros(1)),
        ("bottleneck.level_blocks.2.k", torch.zeros(())),
        ("bottleneck.level_blocks.2.k", torch.zeros(12, 6, 1)),
        ("bottleneck.level_blocks.2.k", torch.full((12, 6), torch.inf)),
    ],
)
def test_weights_of_other_shapes_are_refused(checkpoint, name, tensor):
    loaded = torch.load(checkpoint, weights_only=True)
    loaded["model"][f"module.{name}"] = tensor
    torch.save(loaded, checkpoint)
    with pytest.raises(LassError) as error:
        read_jukebox(checkpoint, 999999999 if "encoders.999999999" in name else 2)
    assert "\n" not in str(error.value)


def test_safetensors_are_read_too(checkpoint, tmp_path):
    save_file(torch.load(checkpoint, weights_only=True)["model"], tmp_path / "vqvae.safetensors")
    assert fingerprint(read_jukebox(tmp_path / "vqvae.safetensors")) == fingerprint(read_jukebox(checkpoint))


def test_files_of_older_versions_of_pytorch_are_read(checkpoint, tmp_path):
    """The format of OpenAI's checkpoint, which is not a zip archive."""
    loaded = torch.load(checkpoint, weights_only=True)
    torch.save(loaded, tmp_path / "old.tar", _use_new_zipfile_serialization=False)
    assert fingerprint(read_jukebox(tmp_path / "old.tar")) == fingerprint(read_jukebox(checkpoint))


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"model": Dangerous(tmp_path / "harm")}))
    with pytest.raises(LassError, match="are no checkpoint of PyTorch"):
        read_jukebox(tmp_path / "bad.pth")
    assert not (tmp_path / "harm").exists()
