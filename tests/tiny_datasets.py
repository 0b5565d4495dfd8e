"""Small random datasets in the official layouts, written to disk."""

from __future__ import annotations

import itertools

import numpy as np
import soundfile
import yaml
from PIL import Image

WORDNET_IDS = ["n01440764", "n01443537", "n02099601"]


def write(path, samples, rate=8000):
    """Write a signal as 16-bit audio."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")


def noise(num_samples, seed, level=0.1):
    return level * np.random.default_rng(seed).standard_normal(num_samples).clip(-5, 5)


def write_tiny_slakh(root, num_songs=2, seconds=3.2, rate=22050):
    """Write songs with stems S00 to S03; drums (S00, S02) are silent in the second quarter, S04 is not rendered."""
    length = round(seconds * rate)
    for part, number in itertools.product(("train", "validation", "test"), range(num_songs)):
        track = root / "slakh_like" / part / f"Track{number:05d}"
        seed = 10 * number + 1000 * len(part)
        drums = noise(length, seed)
        drums[length // 4 : length // 2] = 0
        write(track / "stems" / "S00.flac", drums, rate)
        write(track / "stems" / "S01.flac", noise(length, seed + 1), rate)
        write(track / "stems" / "S02.flac", 0.5 * drums, rate)
        write(track / "stems" / "S03.flac", noise(length, seed + 3), rate)
        stems = {
            "S00": {"inst_class": "Drums", "audio_rendered": True},
            "S01": {"inst_class": "Bass", "audio_rendered": True},
            "S02": {"inst_class": "Drums"},
            "S03": {"inst_class": "Piano", "audio_rendered": True},
            "S04": {"inst_class": "Bass", "audio_rendered": False},
        }
        (track / "metadata.yaml").write_text(yaml.safe_dump({"UUID": "x", "stems": stems}))
    return root / "slakh_like"


def write_tiny_band(root, seconds=3.2, rate=22050, without_piano=("test/Track00001",)):
    """Write the tiny Slakh with a guitar (S05) in the first song of each split only, and songs without the piano."""
    root = write_tiny_slakh(root, seconds=seconds, rate=rate)
    for track in sorted(root.glob("*/*")):
        metadata = yaml.safe_load((track / "metadata.yaml").read_text())
        if track.name == "Track00000":
            metadata["stems"]["S05"] = {"inst_class": "Guitar", "audio_rendered": True}
            write(track / "stems" / "S05.flac", noise(round(seconds * rate), 5000 + len(track.parent.name)), rate)
        if f"{track.parent.name}/{track.name}" in without_piano:
            del metadata["stems"]["S03"]
        (track / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    return root


def write_tiny_celeba(root, num_train=6, num_validation=3, num_test=4, height=218, width=178):
    """Write smooth random images as JPEG files, and the list of splits; returns the folder of the images."""
    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    generator, lines = np.random.default_rng(0), []
    for part, num in enumerate((num_train, num_validation, num_test)):
        for _ in range(num):
            name = f"{len(lines) + 1:06d}.jpg"
            coarse = Image.fromarray(generator.integers(0, 256, (6, 5, 3), dtype=np.uint8))
            coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / name, quality=95)
            lines.append(f"{name} {part}")
    (root / "celeba" / "list_eval_partition.txt").write_text(
        "\r\n".join(lines) + "\r\n"
    )  # line ends of the official list
    return folder


def write_idx(folder, name, array):
    header = (0x800 + array.ndim).to_bytes(4, "big") + b"".join(size.to_bytes(4, "big") for size in array.shape)
    (folder / name).write_bytes(header + array.astype(np.uint8).tobytes())


def write_tiny_mnist(root, num_train=40, num_test=12):
    """Write random images and labels in MNIST's IDX format."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for prefix, num in (("train", num_train), ("t10k", num_test)):
        write_idx(folder, f"{prefix}-images-idx3-ubyte", generator.integers(0, 256, (num, 28, 28)))
        write_idx(folder, f"{prefix}-labels-idx1-ubyte", generator.integers(0, 10, num))


def picture(seed, width=20, height=16):
    """Smooth random colour image."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_tiny_celebahq(root, num_train=6, num_test=4):
    """Write PNG files, and beside their folder both lists, unsorted and with suffix `.npy` as the official ones."""
    (root / "celebahq").mkdir(parents=True)
    order = np.random.default_rng(0).permutation(num_train + num_test)
    for number in order:
        picture(number, 16, 16).save(root / "celebahq" / f"imgHQ{number:05d}.png")
    names = [f"imgHQ{number:05d}.npy\n" for number in order]
    (root / "celebahqtrain.txt").write_text("".join(names[:num_train]))
    (root / "celebahqvalidation.txt").write_text("".join(names[num_train:]))


def write_tiny_imagenet(root, num_train=3, num_val=2, classes=WORDNET_IDS):
    """Write JPEG files of different sizes for each class, in `train` and `val`."""
    for folder, num in (("train", num_train), ("val", num_val)):
        for label, name in enumerate(classes):
            (root / "imagenet" / folder / name).mkdir(parents=True)
            for i in range(num):
                path = root / "imagenet" / folder / name / f"{name}_{i}.JPEG"
                picture(100 * label + i + (50 if folder == "val" else 0), 20 + i, 16).save(path, quality=95)
