"""Tests of CelebA-HQ and ImageNet on folders of image files written by the tests."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_datasets import WORDNET_IDS, picture, write_tiny_celebahq, write_tiny_imagenet

from lass import LassError
from lass.cli.main import main
from lass.data.images.celebahq import CelebAHQ, match_names
from lass.data.images.folder import read_square
from lass.data.images.imagenet import ImageNet
from lass.data.mixture_lists import write_tuples


def by_hand(path, size):
    """Reference: resize and crop with Pillow alone, following torchvision's documentation of Resize and CenterCrop."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    if width < height:
        width, height = size, int(size * height / width)
    else:
        width, height = int(size * width / height), size
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize(
    ("width", "height", "size"), [(50, 37, 16), (37, 51, 16), (10, 12, 16), (16, 16, 16), (300, 20, 8), (41, 40, 40)]
)
def test_images_are_resized_by_the_shorter_side_and_cropped(tmp_path, width, height, size):
    picture(0, width, height).save(tmp_path / "image.png")
    square = read_square(tmp_path / "image.png", size)
    assert square.shape == (3, size, size)
    assert np.array_equal(square.movedim(0, -1), by_hand(tmp_path / "image.png", size))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "transparent palette"])
def test_images_of_every_kind_become_rgb(tmp_path, mode):
    """Known pixels: a red and a blue half; in grey modes a white and a black half."""
    grey = mode in ("1", "L", "LA")
    left, right = ((255, 255, 255), (0, 0, 0)) if grey else ((255, 0, 0), (0, 0, 255))
    image = Image.new("RGB", (16, 8), left)
    image.paste(right, (8, 0, 16, 8))
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    if mode == "transparent palette":
        image.convert("P", palette=Image.Palette.ADAPTIVE, colors=4).save(path, transparency=bytes([0, 255]))
    else:
        image.convert(mode).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        square = read_square(path, 8)
    assert square[:, 0, 0].tolist() == list(left)
    assert square[:, 7, 7].tolist() == list(right)


@pytest.mark.parametrize("layout", ["channels first", "with a batch of one", "channels last"])
def test_arrays_are_images(tmp_path, layout):
    pixels = np.asarray(picture(0, 16, 16))
    array = pixels if layout == "channels last" else pixels.transpose(2, 0, 1)
    np.save(tmp_path / "image.npy", array[None] if layout == "with a batch of one" else array)
    assert np.array_equal(read_square(tmp_path / "image.npy", 16).movedim(0, -1), pixels)


def test_files_that_are_no_images_say_so(tmp_path):
    picture(0, 64, 64).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:200])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "floats.npy", np.zeros((3, 8, 8)))
    for name in ("cut.png", "text.jpg", "empty.npy", "pickle.npy", "floats.npy"):
        with pytest.raises(LassError, match=f"{name} is no image that can be read .*: get it again, or take it out"):
            read_square(tmp_path / name, 8)
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(LassError, match=r"deep.png is an image of the kind 'I;16'.*expected 8 bits"):
        read_square(tmp_path / "deep.png", 8)
    with pytest.raises(LassError, match=r"absent.png is missing"):
        read_square(tmp_path / "absent.png", 8)


def signals_of(part):
    return part.__getitems__(list(range(len(part)))).signals


def test_celebahq_follows_its_lists(tmp_path):
    write_tiny_celebahq(tmp_path)
    data = CelebAHQ(str(tmp_path / "celebahq"), size=16, num_validation=2)
    numbers = [int(line[5:10]) for line in (tmp_path / "celebahqvalidation.txt").read_text().splitlines()]
    expected = [np.asarray(picture(number, 16, 16)).transpose(2, 0, 1) for number in numbers]
    signals = signals_of(data.part("test"))
    assert signals.dtype == torch.float32
    assert torch.equal((signals * 255).round(), torch.from_numpy(np.stack(expected)).float())
    assert (len(data.part("train")), len(data.part("validation"))) == (4, 2)
    listed = set((tmp_path / "celebahqtrain.txt").read_text().replace(".npy", ".png").split())
    parts = [{name.decode() for name in data.part(part).names} for part in ("train", "validation")]
    assert parts[0] | parts[1] == listed
    assert not parts[0] & parts[1]


def test_list_files_lie_inside_or_beside_or_where_they_are_named(tmp_path, monkeypatch):
    write_tiny_celebahq(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    beside = CelebAHQ(size=16).part("test").names.tolist()
    for name in ("celebahqtrain.txt", "celebahqvalidation.txt"):
        (tmp_path / name).rename(tmp_path / "celebahq" / name)
    assert CelebAHQ(size=16).part("test").names.tolist() == beside
    (tmp_path / "own.txt").write_text("imgHQ00003.jpg\n\n")
    lists = {"train_list": str(tmp_path / "celebahq/celebahqtrain.txt"), "validation_list": str(tmp_path / "own.txt")}
    assert CelebAHQ(size=16, **lists).part("test").names.tolist() == [b"imgHQ00003.png"]
    with pytest.raises(LassError, match="both train_list and validation_list"):
        CelebAHQ(train_list="own.txt")


def test_listed_names_may_have_other_suffixes_or_only_the_number_in_common():
    listed = ["imgHQ00007.npy", "imgHQ00008.npy", "imgHQ00009.npy"]
    for there in (listed, ["imgHQ00007.png", "imgHQ00008.jpg", "imgHQ00009.npy"], ["7.jpg", "08.jpg", "00009.jpg"]):
        assert match_names(listed, there) == there
    assert match_names(listed, ["imgHQ00007.png", "imgHQ00007.npy"]) == ["imgHQ00007.npy", None, None]
    assert match_names(listed[:1], ["a7.png", "b7.png"]) == [None]  # ambiguous


def test_images_without_lists_are_split_by_seed(tmp_path):
    write_tiny_celebahq(tmp_path, 14, 10)
    for name in ("celebahqtrain.txt", "celebahqvalidation.txt"):
        (tmp_path / name).unlink()

    def parts(**settings):
        data = CelebAHQ(str(tmp_path / "celebahq"), size=16, **settings)
        return {name: set(data.part(name).names.tolist()) for name in ("train", "validation", "test")}

    split = parts()
    assert {name: len(names) for name, names in split.items()} == {"train": 20, "validation": 2, "test": 2}
    assert len(set.union(*split.values())) == 24
    assert parts() == split
    assert parts(split_seed=1) != split
    assert {name: len(names) for name, names in parts(num_test=6, num_validation=5).items()} == {
        "train": 13,
        "validation": 5,
        "test": 6,
    }
    with pytest.raises(LassError, match=r"num_test must be 1…23, .* not 24"):
        parts(num_test=24)


def test_imagenet_labels_are_positions_of_the_sorted_classes(tmp_path):
    write_tiny_imagenet(tmp_path)
    (tmp_path / "imagenet/val" / WORDNET_IDS[1]).rename(tmp_path / "elsewhere")  # a class without validation images
    data = ImageNet(str(tmp_path / "imagenet"), size=16, num_validation=2)
    sources = data.part("test").__getitems__([0, 1, 2, 3])
    assert sources.labels.tolist() == [0, 0, 2, 2]
    first = tmp_path / "imagenet/val" / WORDNET_IDS[2] / f"{WORDNET_IDS[2]}_0.JPEG"
    assert np.array_equal((sources.signals[2] * 255).round().byte().movedim(0, -1), by_hand(first, 16))
    train = data.part("train")
    assert len(train) == 7
    for name, label in zip(train.names.tolist(), train.labels.tolist(), strict=True):
        assert WORDNET_IDS[label] == name.decode().split("/")[0]


def test_a_thousand_folders_have_the_class_numbers_of_imagenet(tmp_path):
    """No warning with 1,000 folders; fewer folders give a warning unless `classes` lists all classes."""
    names = [f"n{number:08d}" for number in range(1000)]
    write_tiny_imagenet(tmp_path, 0, 1, names)
    shutil.rmtree(tmp_path / "imagenet/train")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ImageNet(str(tmp_path / "imagenet")).part("test").labels.tolist() == list(range(1000))
    for name in set(names) - {names[5], names[700]}:
        shutil.rmtree(tmp_path / "imagenet/val" / name)
    with pytest.warns(UserWarning, match=r"has 2 of ImageNet's 1,000 classes.*--data.classes"):
        assert ImageNet(str(tmp_path / "imagenet")).part("test").labels.tolist() == [0, 1]
    (tmp_path / "classes.txt").write_text("".join(f"{name} what it means, and more\n" for name in names))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = ImageNet(str(tmp_path / "imagenet"), classes=str(tmp_path / "classes.txt"))
        assert data.part("test").labels.tolist() == [5, 700]
    (tmp_path / "classes.txt").write_text(f"{names[5]}\n")
    with pytest.raises(LassError, match=rf"classes.txt lacks 1 classes of .*\({names[700]}\): add them"):
        ImageNet(str(tmp_path / "imagenet"), classes=str(tmp_path / "classes.txt")).part("test")


def test_any_tree_of_classes_is_split_by_seed(tmp_path):
    write_tiny_imagenet(tmp_path, 10, 0, ["golden retriever", "cat"])
    data = ImageNet(str(tmp_path / "imagenet/train"), size=16)
    assert [len(data.part(name)) for name in ("train", "validation", "test")] == [16, 2, 2]
    for part in ("train", "validation", "test"):
        for name, label in zip(data.part(part).names.tolist(), data.part(part).labels.tolist(), strict=True):
            assert name.decode().split("/")[0] == ["cat", "golden retriever"][label]
    (tmp_path / "classes.txt").write_text("golden retriever\ncat\n")
    listed = ImageNet(str(tmp_path / "imagenet/train"), classes=str(tmp_path / "classes.txt")).part("test")
    assert listed.labels.tolist() == [1 - label for label in data.part("test").labels.tolist()]


@pytest.fixture
def opened(monkeypatch):
    """List to which the names of opened image files are appended."""
    names, open_image = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path, *args: names.append(path.name) or open_image(path, *args))
    return names


def test_only_the_images_that_are_asked_for_are_opened(tmp_path, opened):
    write_tiny_imagenet(tmp_path, 4, 4)
    data = ImageNet(str(tmp_path / "imagenet"), size=16, batch_size=1, num_validation=2, num_mixtures=3)
    data.setup("fit")
    data.setup("predict")
    mixtures = data.predict_dataloader()
    assert not opened
    pairs, files = data.mixture_tuples(), data.part("test")
    for number, batch in enumerate(mixtures):
        assert opened == [files.names[i].decode().split("/")[1] for i in pairs[number].tolist()]
        assert torch.equal(batch.labels[0], files.labels[pairs[number]])
        assert batch.signals.shape == (1, 2, 3, 16, 16)
        opened.clear()


def test_processes_load_what_one_process_loads(tmp_path):
    write_tiny_celebahq(tmp_path)
    settings = {"size": 16, "batch_size": 2, "tuples": True, "num_validation": 2}
    alone, shared = (CelebAHQ(str(tmp_path / "celebahq"), num_workers=num, **settings) for num in (0, 2))
    for loader in ("train_dataloader", "val_dataloader"):
        for one, other in zip(getattr(alone, loader)(), getattr(shared, loader)(), strict=True):
            assert torch.equal(one.signals, other.signals)
            assert torch.equal(one.indices, other.indices)


def test_mixtures_are_drawn_or_stored(tmp_path):
    write_tiny_celebahq(tmp_path)
    root = str(tmp_path / "celebahq")
    drawn = CelebAHQ(root, size=16).mixture_tuples()
    assert drawn.shape == (2, 2)
    write_tuples(tmp_path / "pairs.csv", drawn.flip(0))
    assert torch.equal(CelebAHQ(root, size=16, mixtures=str(tmp_path / "pairs.csv")).mixture_tuples(), drawn.flip(0))
    validation = CelebAHQ(root, size=16, num_validation=3, predict_split="validation", num_mixtures=1)
    assert len(validation.predict_dataloader().dataset) == 1
    assert validation.predict_dataloader().dataset.sources is validation.part("validation")


def test_codes_are_kept_apart_by_what_the_images_were_made_of(tmp_path):
    write_tiny_celebahq(tmp_path)
    root = str(tmp_path / "celebahq")
    variants = ({}, {"size": 16}, {"split_seed": 1}, {"num_validation": 3})
    identities = [CelebAHQ(root, **settings).identity("train") for settings in variants]
    assert len(set(identities)) == len(variants)
    assert CelebAHQ(root, batch_size=3, tuples=True).identity("train") == identities[0]
    assert CelebAHQ(root).identity("test") != CelebAHQ(root).identity("validation")
    with open(tmp_path / "celebahqtrain.txt", "a") as file:
        file.write((tmp_path / "celebahqvalidation.txt").read_text().splitlines()[0] + "\n")
    longer = CelebAHQ(root).identity("train")
    assert longer != identities[0]
    for image in (tmp_path / "celebahq").iterdir():
        picture(99, 17, 16).save(image)  # different content under the same name
    assert CelebAHQ(root).identity("train") != longer


def test_the_order_of_classes_is_part_of_what_codes_belong_to(tmp_path):
    """Cached codes contain labels, and the order of the list of classes determines the labels."""
    write_tiny_imagenet(tmp_path)
    identities = set()
    for order in (WORDNET_IDS, WORDNET_IDS[::-1]):
        (tmp_path / "classes.txt").write_text("\n".join(order))
        identities.add(ImageNet(str(tmp_path / "imagenet"), classes=str(tmp_path / "classes.txt")).identity("train"))
    assert len(identities) == 2


def test_a_class_is_listed_once(tmp_path):
    write_tiny_imagenet(tmp_path)
    (tmp_path / "classes.txt").write_text("\n".join([*WORDNET_IDS, WORDNET_IDS[0]]))
    with pytest.raises(LassError, match=rf"classes.txt names classes more than once \({WORDNET_IDS[0]}\)"):
        ImageNet(str(tmp_path / "imagenet"), classes=str(tmp_path / "classes.txt")).part("test")


def test_folders_and_hidden_files_are_no_images(tmp_path):
    write_tiny_imagenet(tmp_path)
    folder = tmp_path / "imagenet/val" / WORDNET_IDS[0]
    (folder / "more.JPEG").mkdir()
    (folder / "._a.JPEG").write_bytes(b"\0\5\26\7")
    assert len(ImageNet(str(tmp_path / "imagenet"), size=16).part("test")) == 6


def test_missing_faces_and_lists_are_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    with pytest.raises(LassError, match=r"no images of CelebA-HQ in .*/celebahq: get them from https://.*DATA_ROOT"):
        CelebAHQ().setup("predict")
    write_tiny_celebahq(tmp_path)
    (tmp_path / "celebahq/imgHQ00003.png").unlink()
    (tmp_path / "celebahq/imgHQ00004.png").rename(tmp_path / "celebahq/.imgHQ00004.png")  # hidden
    messages = []
    for part in ("train", "test"):
        try:
            CelebAHQ().part(part)
        except LassError as error:
            messages.append(str(error))
    assert sum(message.count("imgHQ0000") for message in messages) == 2
    assert all("are not in" in message and "take them out of the list" in message for message in messages)
    (tmp_path / "celebahqtrain.txt").rename(tmp_path / "kept")
    with pytest.raises(LassError, match=r"celebahqtrain.txt is missing, but not its sibling: get both from https://"):
        CelebAHQ().part("test")
    (tmp_path / "celebahqtrain.txt").write_text("\n")
    with pytest.raises(LassError, match=r"celebahqtrain.txt is empty: expected one file name per line"):
        CelebAHQ().part("train")
    (tmp_path / "celebahqtrain.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(LassError, match=r"celebahqtrain.txt is no list of file names"):
        CelebAHQ().part("train")
    (tmp_path / "celebahqtrain.txt").write_text("../../imgHQ00001.npy\n")
    with pytest.raises(LassError, match=r"celebahqtrain.txt holds the name '../../imgHQ00001.npy', which cannot be"):
        CelebAHQ().part("train")
    with pytest.raises(LassError, match="has test images of its own: leave out num_test"):
        CelebAHQ(num_test=3).part("test")


def test_missing_photographs_are_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    expected = r"expected train/n01440764/….JPEG and val/n01440764/….JPEG.*https://www.image-net.org.*DATA_ROOT"
    with pytest.raises(LassError, match=rf"There are no images in .*/imagenet: {expected}"):
        ImageNet().setup("fit")
    write_tiny_imagenet(tmp_path)
    for name in WORDNET_IDS:
        for image in (tmp_path / "imagenet/val" / name).iterdir():
            image.rename(tmp_path / "imagenet/val" / image.name)
    with pytest.raises(LassError, match=r"The 3 folders in .*val hold no images"):
        ImageNet().setup("predict")
    for name in WORDNET_IDS:
        (tmp_path / "imagenet/val" / name).rmdir()
    with pytest.raises(
        LassError, match=rf"There are no folders of classes, only images in .*/imagenet/val: {expected}"
    ):
        ImageNet().setup("predict")
    shutil.rmtree(tmp_path / "imagenet/val")
    with pytest.raises(LassError, match=r"There are no images in .*/imagenet/val"):
        ImageNet().setup("predict")
    with pytest.raises(LassError, match=r"absent.txt is no list of classes"):
        ImageNet(classes="absent.txt").setup("fit")
    with pytest.raises(LassError, match="size must be an integer, at least 1, not 0"):
        ImageNet(size=0)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_image_ends_a_command_with_one_sentence(tmp_path, repository, monkeypatch, num_workers):
    from lass.codecs import ImageVQVAE

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    write_tiny_celebahq(tmp_path)
    for image in (tmp_path / "celebahq").iterdir():
        image.write_bytes(image.read_bytes()[:100])
    ImageVQVAE((3, 16, 16), num_codes=8, width=8).save_pretrained("runs/celebahq/taming/codec")
    config = str(repository / "experiments/celebahq/likelihood.yaml")
    options = ["--data.size=16", "--data.batch_size=1", f"--data.num_workers={num_workers}", "--trainer.logger=false"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", config, "--trainer.fast_dev_run=true", "--trainer.enable_progress_bar=false", *options])
    message = str(stopped.value.code)
    assert message.startswith(f"lass: {tmp_path}/celebahq/imgHQ")
    assert message.endswith("get it again, or take it out of the dataset.")


@pytest.mark.parametrize("dataset", ["celebahq", "imagenet"])
def test_models_that_were_not_imported_say_how(tmp_path, repository, monkeypatch, dataset):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", str(repository / f"experiments/{dataset}/likelihood.yaml")])
    message = str(stopped.value.code)
    assert f"There is no codec at runs/{dataset}/taming/codec" in message
    assert (
        f"`lass import taming --config CONFIG.yaml --checkpoint CHECKPOINT.ckpt --out runs/{dataset}/taming`" in message
    )
