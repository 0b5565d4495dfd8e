"""Files that are damaged, huge, or of another type than their suffix: read, or rejected with one sentence."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from lass import LassError, read_image
from lass.data.files import mapped_array, read_text
from lass.data.images.files import MAX_PIXELS
from lass.data.images.folder import read_square

SHAPE = (1, 6, 8)
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE[1:], dtype=np.uint8)
ANIMATED = {"save_all": True, "append_images": [Image.new("L", (8, 6))]}
TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0"  # EXIF orientation: rotated by 180°
FORMATS = {  # by suffix; several variants of some formats, because each has its own decoder
    ".bmp": [{}],
    ".gif": [{}, ANIMATED],
    ".jpg": [{}, {"progressive": True, "exif": TURNED}],
    ".pgm": [{}],
    ".png": [{}, ANIMATED],
    ".ppm": [{}],
    ".tif": [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}, {"compression": "tiff_adobe_deflate"}],
    ".webp": [{"lossless": True}, {"lossless": False}],
}
DAMAGES = 24  # damaged copies of each kind of file


def encoded(suffix, options):
    mode = "RGB" if suffix in (".ppm", ".webp") else "L"
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, Image.registered_extensions()[suffix], **options)
    return file.getvalue()


def damaged(content, seed):
    """Truncate content or change up to four bytes of it, for every third seed within the first 64 bytes (headers)."""
    generator = np.random.default_rng(seed)
    if seed % 4 == 0:
        return content[: generator.integers(len(content))]
    changed = bytearray(content)
    for position in generator.integers(len(content) if seed % 3 else min(64, len(content)), size=1 + seed % 4):
        changed[position] = generator.integers(256)
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("suffix", "options"), [(suffix, options) for suffix, kinds in FORMATS.items() for options in kinds]
)
def test_damaged_images_are_read_or_refused_in_one_sentence(tmp_path, suffix, options):
    whole, path = encoded(suffix, options), tmp_path / f"image{suffix}"
    path.write_bytes(whole)
    assert read_image(path).shape[1:] == SHAPE[1:]
    refused = []
    for seed in range(DAMAGES):
        path.write_bytes(damaged(whole, seed))
        for read in (lambda: read_image(path, SHAPE), lambda: read_image(path), lambda: read_square(path, 4)):
            try:
                read()
            except LassError as error:
                refused.append(str(error))
    assert refused
    assert all(str(path) in sentence and "\n" not in sentence for sentence in refused)


@pytest.mark.parametrize("suffix", [".bmp", ".pgm", ".png", ".npy"])
def test_nothing_that_a_header_claims_is_allocated(tmp_path, suffix):
    """No memory is allocated for a file of a few hundred bytes whose header claims 10¹⁰ pixels."""
    path, side = tmp_path / f"image{suffix}", 100_000
    if suffix == ".npy":
        header = {"descr": "|u1", "fortran_order": False, "shape": (3, side, side)}
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
    elif suffix == ".pgm":
        path.write_bytes(b"P5\n%d %d\n255\n" % (side, side))
    else:
        content = bytearray(encoded(suffix, {}))
        if suffix == ".png":
            content[16:24] = struct.pack(">II", side, side)
            content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        else:
            content[18:26] = struct.pack("<ii", side, side)
        path.write_bytes(content)
    readers = [lambda: read_square(path, 4)]
    readers += [] if suffix == ".npy" else [lambda: read_image(path, SHAPE), lambda: read_image(path)]
    for read in readers:
        with pytest.raises(LassError, match="no image that can be read"):
            read()


def test_the_size_is_checked_before_pixels_are_decoded(tmp_path, monkeypatch):
    Image.new("L", (300, 200)).save(tmp_path / "large.png")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(LassError, match="has 200×300 pixels, but this separator is for 6×8"):
        read_image(tmp_path / "large.png", SHAPE)
    monkeypatch.setattr("lass.data.images.files.MAX_PIXELS", 59_999)
    with pytest.raises(LassError, match="claims to have 200×300 pixels"):
        read_image(tmp_path / "large.png")
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS  # limit above which Pillow warns


def test_what_claims_too_much_is_refused_without_a_warning_beside_the_sentence(tmp_path):
    """At 10⁸ pixels Pillow only warns; it raises an error above twice its limit."""
    (tmp_path / "image.pgm").write_bytes(b"P5\n10000 10000\n255\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(LassError, match="claims to have 10000×10000 pixels"):
            read_image(tmp_path / "image.pgm", SHAPE)


def test_programs_are_not_run(tmp_path, monkeypatch):
    """PostScript in a file with the suffix .png is rejected; Pillow would run Ghostscript."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *arguments: pytest.fail("run"))
    (tmp_path / "image.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\n")
    for read in (lambda: read_image(tmp_path / "image.png"), lambda: read_square(tmp_path / "image.png", 4)):
        with pytest.raises(LassError, match="it is a PostScript program, which is not run"):
            read()


@pytest.mark.parametrize("chunk", ["text", "profile"])
def test_a_png_with_more_than_a_megabyte_of_metadata_is_one_sentence(tmp_path, chunk):
    """Metadata compressed by a factor of 1000, which Pillow refuses to decompress, gives one sentence."""
    large, options = b"a" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), {}
    if chunk == "text":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("Comment", large.decode(), zip=True)
    else:
        options["icc_profile"] = large
    Image.fromarray(PIXELS).save(tmp_path / "image.png", **options)
    with pytest.raises(LassError, match=r"image.png is no image that can be read \(.*: .* without metadata\.$"):
        read_image(tmp_path / "image.png", SHAPE)


# Displayed image for each value of the EXIF tag "orientation", as in CSS Images 4, image-orientation: from-image.
TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.T,
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].T,
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_the_orientation_that_a_camera_noted_is_followed(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(PIXELS).save(tmp_path / f"image{suffix}", exif=exif, **options)
    expected = TURNS[orientation](PIXELS)
    image = read_image(tmp_path / f"image{suffix}", (1, *expected.shape))
    assert np.array_equal((image[0] * 255).round().byte().numpy(), expected)
    if orientation > 4:
        with pytest.raises(LassError, match="has 8×6 pixels, but this separator is for 6×8"):
            read_image(tmp_path / f"image{suffix}", SHAPE)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".tif", ".webp"])
def test_of_an_animation_the_first_image_is_taken_with_one_warning(tmp_path, suffix):
    path, options = tmp_path / f"image{suffix}", {"lossless": True} if suffix == ".webp" else {}
    first, second = (Image.fromarray(pixels) for pixels in (PIXELS, 255 - PIXELS))
    first.save(path, save_all=True, append_images=[second], **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = read_image(path, SHAPE)
    assert [str(warning.message) for warning in caught] == [
        f"{path} holds several images: only the first one is taken."
    ]
    assert np.array_equal((image[0] * 255).round().byte().numpy(), PIXELS)
    first.save(path, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(path, SHAPE)


def test_palettes_with_transparency_are_read_without_a_warning(tmp_path):
    """Palette images with transparency data are read without a warning if all pixels are opaque."""
    Image.fromarray(PIXELS).convert("P").save(tmp_path / "image.png", transparency=bytes([255] * 256))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(tmp_path / "image.png", SHAPE)
    assert np.array_equal((image[0] * 255).round().byte().numpy(), PIXELS)


def test_text_is_utf8_with_or_without_a_mark(tmp_path):
    path = tmp_path / "list.txt"
    for content in (b"caf\xc3\xa9\r\nb\r\n", b"\xef\xbb\xbfcaf\xc3\xa9\r\nb\r\n"):
        path.write_bytes(content)
        assert read_text(path, "list", "expected lines").split() == ["café", "b"]
    refused = {"a".encode("utf-16"): "not in UTF-8", "a".encode("utf-16-le"): "NUL", b"caf\xe9": "not in UTF-8"}
    for content, reason in refused.items():
        path.write_bytes(content)
        with pytest.raises(
            LassError, match=rf"list.txt is no list that can be read \(.*{reason}.*\): expected lines\.$"
        ):
            read_text(path, "list", "expected lines")
    with pytest.raises(LassError, match=r"is no list that can be read \(Is a directory\)"):
        read_text(tmp_path, "list", "expected lines")


@pytest.mark.filterwarnings("ignore")
def test_damaged_arrays_say_why(tmp_path):
    """Archives and pickled objects are rejected as arrays; the reason for a damaged header is one line."""
    np.save(tmp_path / "whole.npy", np.arange(600, dtype=np.int32).reshape(200, 3))
    np.savez(tmp_path / "archive.npz", a=np.zeros(3))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    whole = (tmp_path / "whole.npy").read_bytes()
    (tmp_path / "nested.npy").write_bytes(whole[:8] + struct.pack("<H", 9000) + b"(" * 9000)
    (tmp_path / "empty.npy").touch()
    for name in ("archive.npz", "objects.npy", "nested.npy", "empty.npy"):
        with pytest.raises(OSError) as error:  # noqa: PT011 (the messages differ)
            mapped_array(tmp_path / name)
        assert len(str(error.value).splitlines()) == 1
    reasons = []
    for seed in range(60):
        (tmp_path / "whole.npy").write_bytes(damaged(whole[:160], 3 * seed))
        try:
            mapped_array(tmp_path / "whole.npy")
        except OSError as error:
            reasons.append(str(error))
    assert len(reasons) > 50  # all files are truncated, so nearly all are rejected
    assert all(len(reason.splitlines()) == 1 for reason in reasons)
