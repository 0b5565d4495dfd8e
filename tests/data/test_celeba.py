"""Tests of CelebA in its official layout, on a tiny dataset written by the tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_datasets import write_tiny_celeba
from torchvision.transforms import v2

from lass import LassError
from lass.data.images.celeba import CelebA, shrink
from lass.data.images.module import ImageDataModule

SIZES = {"train": 6, "validation": 3, "test": 4}


@pytest.fixture
def root(tmp_path):
    write_tiny_celeba(tmp_path)
    return tmp_path


def celeba(root, **settings):
    return CelebA(str(root), cache=str(root / "cache"), **settings)


@pytest.mark.parametrize(("height", "width", "crop"), [(218, 178, 140), (109, 89, 70)], ids=["official", "half"])
def test_official_parts_are_cropped_and_resized_as_torchvision_does(tmp_path, height, width, crop):
    """Centre crop, then an antialiased bilinear resize to 32; images of half the size are cropped at half the size."""
    folder = write_tiny_celeba(tmp_path, height=height, width=width)
    data = celeba(tmp_path)
    data.prepare_data()
    names = iter(sorted(folder.iterdir()))
    usual = v2.Compose([v2.CenterCrop(crop), v2.Resize(32, antialias=True), v2.PILToTensor()])
    for part, num in SIZES.items():
        images = data.part(part).images
        assert images.shape == (num, 3, 32, 32)
        for image in images:
            with Image.open(next(names)) as original:
                assert torch.equal(image, usual(original))
    signals = data.part("test")[0].signals
    assert torch.equal((signals * 255).round(), data.part("test").images[0].float())


def test_images_are_decoded_once_and_mapped(root):
    celeba(root).prepare_data()
    files = sorted((root / "cache").iterdir())
    assert [file.name.split("-")[1] for file in files] == ["train", "validation"]  # no test images for training
    celeba(root).part("test")
    files = sorted((root / "cache").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    for image in (root / "celeba" / "img_align_celeba").iterdir():
        image.unlink()  # no longer needed
    data = celeba(root)
    data.prepare_data()
    assert len(data.part("train")) == 6
    assert [file.stat().st_mtime_ns for file in files] == before
    data.part("train").images[0] = 0  # copy on write: the file is unchanged
    assert celeba(root).part("train").images[0].any()
    whole = np.load(files[0])
    for wrong in (whole[:-1], whole[:, :2], whole[..., :16], whole.astype(np.float32), whole[0]):
        np.save(files[0], wrong)
        with pytest.raises(LassError, match=r"does not hold these images \(an array of .*\): delete it, and it"):
            [celeba(root).part(part) for part in SIZES]
    files[0].write_bytes(files[0].read_bytes()[:100])
    with pytest.raises(LassError, match="delete it, and it is made again"):
        [celeba(root).part(part) for part in SIZES]


def test_the_archive_of_kaggle_is_read_as_it_is(root, tmp_path):
    """Nested image folder, and a CSV list with a header; also with a byte-order mark and CRLF line ends."""
    expected = celeba(root).part("test").images.clone()
    folder, table = root / "celeba", root / "celeba" / "list_eval_partition.csv"
    (folder / "img_align_celeba").rename(folder / "images")
    (folder / "img_align_celeba").mkdir()
    (folder / "images").rename(folder / "img_align_celeba" / "img_align_celeba")
    lines = (folder / "list_eval_partition.txt").read_text().replace(" ", ",").splitlines()
    (folder / "list_eval_partition.txt").unlink()
    for number, (mark, end) in enumerate([("", "\n"), ("\ufeff", "\r\n")]):
        table.write_text(mark + end.join(["image_id,partition", *lines, ""]), encoding="utf-8", newline="")
        data = CelebA(str(root), cache=str(tmp_path / f"cache-{number}"))
        assert torch.equal(data.part("test").images, expected)
        assert len(data.part("train")) == 6


@pytest.mark.parametrize("name", ["../../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "..", "C:\\x.jpg"])
def test_a_list_names_no_files_outside(root, name):
    partition = root / "celeba" / "list_eval_partition.txt"
    partition.write_text(f"000001.jpg 0\n{name} 0\n")
    with pytest.raises(LassError, match=r"partition.txt holds the name .*, which cannot be the name of a file"):
        celeba(root).part("train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("000001.jpg 0\n".encode("utf-16"), "is no list of the parts of CelebA .*not in UTF-8"),
        (b"000001.jpg 0\0\n", "is no list of the parts of CelebA .*NUL"),
        (b"000001.jpg 0\n000002.jpg 0\n000001.jpg 2\n", r"names images more than once \(000001.jpg\)"),
    ],
)
def test_lists_that_are_none_say_why(root, content, message):
    (root / "celeba" / "list_eval_partition.txt").write_bytes(content)
    with pytest.raises(LassError, match=message):
        celeba(root).part("train")


def test_a_full_disk_leaves_no_half_of_the_small_images(root, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lass.data.images.celeba.CelebA._write_header", full)
    with pytest.raises((OSError, LassError), match="No space left"):
        celeba(root).part("test")
    assert not list((root / "cache").iterdir())


def test_other_lists_and_sizes_are_other_images(root):
    lines = (root / "celeba" / "list_eval_partition.txt").read_text().splitlines()
    (root / "celeba" / "local.txt").write_text("\n".join(line[:-1] + str(2 - int(line[-1])) for line in lines))
    official, local = celeba(root), celeba(root, partition="local.txt")
    assert torch.equal(local.part("train").images, official.part("test").images)
    assert torch.equal(local.part("test").images, official.part("train").images)
    assert celeba(root, size=16).part("test").images.shape == (4, 3, 16, 16)
    assert len(list((root / "cache").iterdir())) == 5


def test_mirror_images_are_training_images_only(root):
    plain, mirrored = celeba(root), celeba(root, mirror=True)
    assert len(mirrored.part("train")) == 12
    assert len(mirrored.part("test")) == 4
    signals = mirrored.part("train").__getitems__([1, 7, 11]).signals
    expected = plain.part("train").__getitems__([1, 1, 5]).signals
    assert torch.equal(signals[0], expected[0])
    assert torch.equal(signals[1:], expected[1:].flip(-1))


def spoil(folder):
    (folder / "000001.jpg").unlink()
    (folder / "000002.jpg").write_bytes((folder / "000002.jpg").read_bytes()[:500])
    with Image.open(folder / "000003.jpg") as image:
        image.convert("L").save(folder / "000003.jpg")
    (folder / "000004.jpg").write_text("no image")


def test_bad_images_are_named_and_counted_and_left_out_only_if_asked(root, caplog):
    caplog.set_level("INFO")
    whole = celeba(root).part("train").images.clone()
    spoil(root / "celeba" / "img_align_celeba")
    for file in (root / "cache").iterdir():
        file.unlink()
    with pytest.raises(LassError) as error:
        celeba(root).prepare_data()
    message = str(error.value)
    assert "4 of 6 train images" in message
    assert "000001.jpg is missing; 000002.jpg is damaged or no image; 000003.jpg is grey, not RGB; …" in message
    assert "--data.skip_bad_images=true" in message
    assert not list((root / "cache").iterdir())  # no partial files
    data = celeba(root, skip_bad_images=True)
    data.prepare_data()
    for _ in range(2):  # with and without cached images
        caplog.clear()
        data = celeba(root, skip_bad_images=True)
        assert torch.equal(data.part("train").images, whole[4:])
        said = " ".join(caplog.text.split())
        assert "4 train images are left out (000001.jpg, 000002.jpg, 000003.jpg, …); all are named in" in said
    (listed,) = (root / "cache").glob("*.left-out.txt")
    assert listed.read_text().split() == [f"00000{number}.jpg" for number in (1, 2, 3, 4)]
    for number in (5, 6):
        (root / "celeba" / "img_align_celeba" / f"{number:06d}.jpg").unlink()
    for file in (root / "cache").iterdir():
        file.unlink()
    with pytest.raises(LassError, match="None of the 6 train images"):
        celeba(root, skip_bad_images=True).prepare_data()


def test_images_that_were_repaired_are_no_longer_left_out(root):
    image = root / "celeba" / "img_align_celeba" / "000001.jpg"
    image.rename(root / "kept.jpg")
    assert len(celeba(root, skip_bad_images=True).part("train")) == 5
    (root / "kept.jpg").rename(image)
    for file in (root / "cache").glob("*.npy"):
        file.unlink()
    assert len(celeba(root, skip_bad_images=True).part("train")) == 6


def test_stored_mixtures_do_not_fit_when_test_images_are_left_out(root):
    (root / "celeba" / "img_align_celeba" / "000010.jpg").unlink()
    stored = celeba(root, skip_bad_images=True, mixtures="pairs.csv")
    with pytest.raises(LassError, match=r"the numbers in pairs.csv would mean others: .*--data.mixtures=null"):
        stored.part("test")
    assert len(celeba(root, skip_bad_images=True).part("test")) == 3


def test_codes_are_kept_apart_by_what_the_images_were_made_of(root):
    identities = {celeba(root, **settings).identity("train") for settings in ({}, {"size": 16}, {"mirror": True})}
    assert len(identities) == 3
    assert celeba(root, batch_size=3, tuples=True).identity("train") in identities
    partition = root / "celeba" / "list_eval_partition.txt"
    partition.write_text(partition.read_text().replace("000001.jpg 0", "000001.jpg 2"))
    assert celeba(root).identity("train") not in identities


def test_images_of_another_kind_or_shape_say_what_they_are(tmp_path):
    Image.new("RGBA", (178, 218)).save(tmp_path / "see_through.png")
    Image.new("RGB", (178, 100)).save(tmp_path / "flat.png")
    assert shrink(tmp_path / "see_through.png", 32) == "is of the kind RGBA, not RGB"
    assert shrink(tmp_path / "flat.png", 32) == "has 100×178 pixels, less than the square to be cropped"


def test_what_is_missing_is_said_with_what_to_put_where(root, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "elsewhere"))
    with pytest.raises(LassError, match=r"no list of the parts of CelebA at .*elsewhere/celeba.*DATA_ROOT"):
        CelebA().setup("fit")
    partition = root / "celeba" / "list_eval_partition.txt"
    partition.write_text("000001.jpg 0\n000002.jpg 0\n")
    with pytest.raises(LassError, match=r"has no validation images .*--data.partition"):
        celeba(root).part("validation")
    for line in ("000001.jpg", "000001.jpg 3", "one two 0"):
        partition.write_text(f"000001.jpg 0\n{line}\n")
        with pytest.raises(LassError, match=f"Line 2 of .* is '{line}'"):
            celeba(root).part("train")
    (root / "celeba" / "img_align_celeba").rename(root / "celeba" / "elsewhere")
    partition.write_text("000001.jpg 0\n")
    with pytest.raises(LassError, match=r"unpack img_align_celeba.zip there"):
        celeba(root).part("train")


class Refused(Exception):
    """Stand-in for the errors of gdown, which derive from Exception too."""


def test_a_download_that_fails_says_what_to_get(tmp_path, monkeypatch):
    def fails(*arguments, **settings):
        raise Refused("no\nnetwork")

    monkeypatch.delenv("DATA_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lass.data.images.celeba.datasets.CelebA", fails)
    with pytest.raises(LassError, match=r"no network.*img_align_celeba.zip and list_eval_partition.txt"):
        CelebA().prepare_data()
    write_tiny_celeba(tmp_path / "data")  # existing data is not downloaded again
    CelebA().prepare_data()


def test_validation_images_are_not_taken_from_training(root):
    with pytest.raises(LassError, match="CelebA has validation images of its own: leave out num_validation"):
        celeba(root, num_validation=2)
    assert len(celeba(root).part("train")) == 6


@pytest.mark.parametrize(("tuples", "needed"), [(False, "7 images"), (True, "7 tuples of 2 images")])
def test_fewer_images_than_a_batch_are_refused(root, tuples, needed):
    data: ImageDataModule = celeba(root, batch_size=7, tuples=tuples)
    with pytest.raises(LassError, match=f"There are 6 training images, fewer than one batch of {needed}"):
        data.train_dataloader()
