"""Reading and writing image files, and `lass separate` on them."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_worlds import fitted_additive

from lass import LassError, Separator, SparseCounts, read_image, write_image
from lass.artifacts import fingerprint
from lass.cli.files import find_files
from lass.cli.main import main
from lass.codecs import ImageVQVAE
from lass.hub import default_for
from lass.priors import TransformerPrior
from lass.report.figures import image_grid
from lass.samplers import Ancestral, SequentialMonteCarlo
from lass.separation import LatentDescent


def save(path, pixels, mode=None):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8), mode).save(path)
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_written_images_are_read_back(tmp_path, channels):
    image = torch.randint(256, (channels, 5, 7)) / 255
    write_image(tmp_path / "image.png", image)
    assert torch.equal(read_image(tmp_path / "image.png"), image)  # integer / 255 is exactly reproducible
    with Image.open(tmp_path / "image.png") as opened:  # Pillow reads the same values
        assert np.array_equal(np.asarray(opened), (image * 255).round().byte().movedim(0, -1).squeeze(-1).numpy())


def test_values_outside_are_clipped(tmp_path):
    write_image(tmp_path / "image.png", torch.tensor([[[-0.5, 0.5, 1.5]]]))
    assert np.asarray(Image.open(tmp_path / "image.png")).tolist() == [[0, 128, 255]]


def test_grey_is_grey_however_it_was_saved(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    colour, opaque = np.stack([grey] * 3, -1), np.stack([grey] * 3 + [np.full_like(grey, 255)], -1)
    for name, pixels in {"L.png": grey, "RGB.png": colour, "RGBA.png": opaque}.items():
        image = read_image(save(tmp_path / name, pixels), (1, 3, 4))
        torch.testing.assert_close(image[0], torch.from_numpy(grey) / 255)
    Image.fromarray(grey).convert("P").save(tmp_path / "P.png")
    torch.testing.assert_close(read_image(tmp_path / "P.png", (1, 3, 4))[0], torch.from_numpy(grey) / 255)


def test_files_that_are_no_such_image_are_refused(tmp_path):
    shape = (1, 3, 4)
    red = np.zeros((3, 4, 3))
    red[..., 0] = 200
    see_through = np.full((3, 4, 4), 100)
    (tmp_path / "text.png").write_text("not an image")
    whole = save(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 255, (3, 4))).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:50])
    Image.fromarray(np.full((3, 4), 40, dtype=np.uint16)).save(tmp_path / "deep.png")  # values below 256
    Image.fromarray(np.full((3, 4, 3), 9, dtype=np.uint8), "RGB").convert("LAB").save(tmp_path / "lab.tiff")
    for path, message in {
        tmp_path / "nowhere.png": "There is no file",
        tmp_path / "text.png": "no image that can be read",
        tmp_path / "cut.png": "no image that can be read",
        tmp_path / "lab.tiff": "not just opaque 8-bit grey",
        tmp_path / "deep.png": "not just opaque 8-bit grey",
        save(tmp_path / "red.png", red): "not just opaque 8-bit grey",
        save(tmp_path / "see_through.png", see_through): "not just opaque 8-bit grey",
        save(tmp_path / "large.png", np.zeros((28, 28))): r"28×28 pixels, but this separator is for 3×4",
    }.items():
        with pytest.raises(LassError, match=message) as error:
            read_image(path, shape)
        assert str(path) in str(error.value)
    with pytest.raises(LassError, match="an image of 2 channels is expected"):
        read_image(tmp_path / "whole.png", (2, 3, 4))


@pytest.fixture(scope="module")
def separator_folder(tmp_path_factory):
    torch.manual_seed(0)
    codec = ImageVQVAE((1, 8, 8), num_codes=4, width=8, latent_dim=3).eval()
    counts = SparseCounts(4, codec_fingerprint=fingerprint(codec))
    counts.add(*torch.randint(4, (3, 500)))
    prior = TransformerPrior(4, 4, dim=8, num_layers=1, num_heads=1, num_classes=3, class_dropout=0.5).eval()
    for layer in (prior.start_embedding, prior.to_logits):
        layer.weight.data.mul_(50)  # so that the class matters in an untrained prior
    separator = Separator(codec, prior, counts.likelihood(), Ancestral(1), refinement=LatentDescent(5))
    return separator.save_pretrained(tmp_path_factory.mktemp("separator"))


def mixtures(folder, names=("a", "b")):
    generator = np.random.default_rng(0)
    return [save(folder / f"{name}.png", generator.integers(0, 255, (8, 8))) for name in names]


def halves(height, width, *colours):
    """Return an image whose left part has the first colour and whose right part the second one."""
    pixels = np.empty((height, width, *np.shape(colours[0])))
    pixels[:, : width // 2], pixels[:, width // 2 :] = colours
    return pixels


@pytest.mark.parametrize(
    ("pixels", "fit", "expected"),
    [
        # 4×12 to 4×4: the middle third, or four columns of means in a band of a third of the height between black
        (halves(4, 12, 0, 200), "crop", halves(4, 4, 0, 200)),
        (halves(12, 4, 0, 200), "crop", halves(4, 4, 0, 200)),
        (np.full((8, 16), 200), "pad", np.array([[0], [200], [200], [0]]) * np.ones(4)),
        (np.full((16, 8), 200), "pad", np.array([0, 200, 200, 0]) * np.ones((4, 1))),
        (np.full((2, 2), 77), "pad", np.full((4, 4), 77)),
        # red has a luminance of 0.299; opaque, half and fully transparent white on black
        (np.full((4, 4, 3), (255, 0, 0)), "crop", np.full((4, 4), 76)),
        (np.full((4, 4, 4), (255, 255, 255, 255)), "pad", np.full((4, 4), 255)),
        (np.full((4, 4, 4), (255, 255, 255, 128)), "pad", np.full((4, 4), 128)),
        (np.full((4, 4, 4), (255, 255, 255, 0)), "crop", np.full((4, 4), 0)),
    ],
)
def test_fit_converts_any_image(tmp_path, pixels, fit, expected):
    image = read_image(save(tmp_path / "image.png", pixels), (1, 4, 4), fit)
    np.testing.assert_allclose(255 * image[0], expected, atol=1)


def test_fit_reads_16_bits_and_keeps_an_image_that_fits(tmp_path):
    deep = np.linspace(0, 65535, 16).round().astype(np.uint16).reshape(4, 4)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read_image(tmp_path / "deep.png", (1, 4, 4), "crop")[0], deep / 65535, atol=0.5 / 255)
    path = save(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 255, (4, 4)))
    for fit in ("crop", "pad"):
        assert torch.equal(read_image(path, (1, 4, 4), fit), read_image(path))
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8), "RGB").convert("LAB").save(tmp_path / "lab.tiff")
    with pytest.raises(LassError, match="'LAB', which has no conversion"):
        read_image(tmp_path / "lab.tiff", (1, 4, 4), "crop")
    with pytest.raises(LassError, match="too narrow to be padded to 4×4: use --fit crop"):
        read_image(save(tmp_path / "narrow.png", np.zeros((100, 1))), (1, 4, 4), "pad")


def separate(*arguments):
    main(["separate", *map(str, arguments)])


def test_files_and_folders_become_estimates_and_a_picture(separator_folder, tmp_path, capsys):
    one, two = mixtures(tmp_path / "folder")
    for name in ("notes.txt", "paper.pdf"):
        (tmp_path / "folder" / name).write_text("not an image, and not asked for")
    extra = mixtures(tmp_path, ["extra"])[0]
    out = tmp_path / "out"
    separate(tmp_path / "folder", extra, "--separator", separator_folder, "--out", out)
    stems = ["a", "b", "extra"]
    assert sorted(p.name for p in out.iterdir()) == sorted(
        ["separations.png", *(f"{stem}-{source}.png" for stem in stems for source in (1, 2))]
    )
    assert "Estimates of 3 mixture(s)" in capsys.readouterr().out
    assert Image.open(out / "separations.png").size[0] > 300
    # The estimates of a file are equal in a folder, alone, and in Python.
    separate(two, "--separator", separator_folder, "--out", tmp_path / "alone")
    assert (tmp_path / "alone" / "b-1.png").read_bytes() == (out / "b-1.png").read_bytes()
    estimates = Separator.from_pretrained(separator_folder).separate(read_image(one)).estimates
    torch.testing.assert_close(read_image(out / "a-2.png"), estimates[1].clamp(0, 1), atol=0.5 / 255 + 1e-6, rtol=0)


def test_without_options_the_published_separator_writes_a_folder_for_each_file(
    separator_folder, tmp_path, monkeypatch, capsys
):
    """The default is simulated, so that the test does not depend on which separator is the default."""
    model = replace(default_for("image"), name="tiny", licence="CC0-1.0")
    monkeypatch.setattr("lass.hub.default_for", {"image": model}.get)
    monkeypatch.setattr("lass.hub.folder_of_published", lambda one: separator_folder if one is model else None)
    monkeypatch.chdir(tmp_path)
    Path("tiny").mkdir()  # a folder of the same name is not taken for the published separator
    one, two = mixtures(tmp_path / "in")
    separate(one)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Separator: tiny, licence CC0-1.0.")
    assert said[-1] == "Estimates of 1 mixture(s) are in separated/tiny/a; picture: separated/tiny/a/separations.png"
    separate(two, "--separator", separator_folder)
    made = [str(path.relative_to(tmp_path / "separated")) for path in (tmp_path / "separated").rglob("*.png")]
    names = {"a": "tiny/a", "b": f"{separator_folder.name}/b"}
    assert sorted(made) == sorted(
        f"{folder}/{name}"
        for stem, folder in names.items()
        for name in (f"{stem}-1.png", f"{stem}-2.png", "separations.png")
    )
    with pytest.raises(SystemExit, match=r"separated/tiny/a/a-1.png is there already"):
        separate(one)
    with pytest.raises(SystemExit, match="No separator for songs is published yet: name the folder of one with"):
        separate("song.MP3")
    with pytest.raises(SystemExit, match="There are images and songs among the mixtures"):
        separate("song.mp3", tmp_path / "in")
    for nothing in ("notes.txt", tmp_path):
        with pytest.raises(SystemExit, match=f"{nothing} is neither an image nor a song by its name"):
            separate(nothing)


@pytest.fixture(scope="module")
def additive_folder(separator_folder, tmp_path_factory):
    """Folder of a separator that serves any number of sources; saved for two."""
    parts = Separator.from_pretrained(separator_folder)
    signals = torch.rand(40, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    likelihood = fitted_additive(parts.codec, signals)
    separator = Separator(parts.codec, parts.priors, likelihood, SequentialMonteCarlo(4), refinement=LatentDescent(5))
    return separator.save_pretrained(tmp_path_factory.mktemp("additive"))


@pytest.mark.parametrize("num_sources", [None, 3, 4])
def test_any_number_of_sources_is_separated(additive_folder, tmp_path, monkeypatch, num_sources):
    grids, draw, out = [], image_grid, tmp_path / "out"
    monkeypatch.setattr("lass.cli.images.image_grid", lambda *arguments: grids.append(arguments) or draw(*arguments))
    options = [] if num_sources is None else ["--num-sources", num_sources]
    files = mixtures(tmp_path)
    separate(*files, "--separator", additive_folder, "--out", out, *options)
    numbers = range(1, (num_sources or 2) + 1)
    made = {f"{stem}-{source}.png" for stem in ("a", "b") for source in numbers}
    assert {path.name for path in out.iterdir()} == {*made, "separations.png"}
    columns = grids[0][0]
    assert list(columns) == ["mixture", *(f"estimate {source}" for source in numbers), "|residual|"]
    expected = Separator.from_pretrained(additive_folder, num_sources).separate(read_image(files[1]))
    for source in numbers:
        estimate = expected.estimates[source - 1]
        torch.testing.assert_close(columns[f"estimate {source}"][1], estimate)
        written = read_image(out / f"b-{source}.png")
        torch.testing.assert_close(written, estimate.clamp(0, 1), atol=0.5 / 255 + 1e-6, rtol=0)


def test_the_number_of_sources_is_determined_for_each_image(additive_folder, tmp_path, monkeypatch, capsys):
    """With probabilities that say so, one image gets one estimate and the other three; all are in one picture."""
    numbers = iter([1, 3])

    def probabilities(separator, mixture, **options):
        return torch.nn.functional.one_hot(torch.tensor([next(numbers) - 1]), 4).float() * 0.9 + 0.025

    grids, draw, out = [], image_grid, tmp_path / "out"
    monkeypatch.setattr("lass.cli.images.image_grid", lambda *arguments: grids.append(arguments) or draw(*arguments))
    monkeypatch.setattr("lass.cli.images.num_sources_probabilities", probabilities)
    files = mixtures(tmp_path)
    separate(*files, "--separator", additive_folder, "--out", out, "--num-sources", "auto")
    assert {path.name for path in out.iterdir()} == {"a-1.png", "b-1.png", "b-2.png", "b-3.png", "separations.png"}
    assert list(grids[0][0]) == ["mixture", "estimate 1", "estimate 2", "estimate 3", "|residual|"]
    assert (grids[0][0]["estimate 2"][0] == 1).all()  # blank
    assert "b.png: 3 source(s), with an estimated probability of 92% among 1 to 4" in capsys.readouterr().out


def test_overwriting_removes_the_surplus_sources_of_the_earlier_run(additive_folder, tmp_path):
    """And nothing else: neither mixtures, nor estimates of others, nor files without a number that follows."""
    files, out = mixtures(tmp_path, ["a", "b"]), tmp_path / "out"
    options = ["--separator", additive_folder, "--out", out, "--overwrite", "--num-sources"]
    separate(*files, *options, 4)
    for name in ("a-6.png", "a-x.png", "a-3.txt"):
        (out / name).touch()
    (mixture,) = mixtures(out, ["b-4"])
    separate(files[0], *options, 2)
    left = {"a-1.png", "a-2.png", "a-6.png", "a-x.png", "a-3.txt"}
    others = {f"b-{number}.png" for number in (1, 2, 3, 4)} | {"separations.png"}
    assert {path.name for path in out.iterdir()} == left | others
    separate(files[1], mixture, *options, 2)
    assert {path.name for path in out.iterdir()} == left | others - {"b-3.png"} | {"b-4-1.png", "b-4-2.png"}


def test_each_of_three_sources_has_a_class(additive_folder, tmp_path):
    (file,) = mixtures(tmp_path, "a")
    options = ["--separator", additive_folder, "--num-sources", 3]
    separate(file, *options, "--classes", 2, 0, 1, "--out", tmp_path / "out")
    separator = Separator.from_pretrained(additive_folder, 3)
    expected = separator.separate(read_image(file), torch.tensor([2, 0, 1])).estimates
    for source in range(3):
        written = read_image(tmp_path / "out" / f"a-{source + 1}.png")
        torch.testing.assert_close(written, expected[source].clamp(0, 1), atol=0.5 / 255 + 1e-6, rtol=0)
    with pytest.raises(SystemExit, match="--classes takes one class for each of 3 sources, got 2"):
        separate(file, *options, "--classes", 2, 0, "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_classes_and_seed_change_the_sample(separator_folder, tmp_path):
    files, made = mixtures(tmp_path, "abcdef"), []
    for number, options in enumerate([[], ["--seed", "1"], ["--classes", "1", "1"]]):
        out = tmp_path / str(number)
        separate(*files, "--separator", separator_folder, "--out", out, *options)
        made.append(tuple(path.read_bytes() for path in sorted(out.glob("*-1.png"))))
    assert len(set(made)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png", "nothing.png"], "There is no file nothing.png"),
        (["empty"], "no images in the folder empty"),
        (["a.png", "other/a.png"], "would both become out/a-1.png"),
        (["a.png", "--classes", "0", "7"], "Classes must be in 0…2; got 0…7"),
        (["a.png", "--separator", "nowhere"], "There is no separator nowhere"),
        (["done/a.png", "--out", "done"], "done/a-1.png is there already"),
        (["a.png", "--out", "a.png"], "The folder a.png cannot be made"),
        (["a.png", "--classes", "1"], "--classes takes one class for each of 2 sources, got 1"),
        (["a.png", "--num-sources", "3"], "an AdditiveLikelihood serves any number"),
        (["a.png", "--num-sources", "0"], "num_sources must be an integer, at least 1"),
        (["a.png", "--num-sources", "two"], "--num-sources must be an integer or auto, not two"),
        (["a.png", "--num-sources", "auto"], "an additive likelihood is needed, which serves any number"),
        (["a.png", "--num-sources", "auto", "--classes", "1", "1"], "--classes is for a known number of sources"),
        (["a.png", "--seed", "-1"], "The seed must be 0 or more"),
        (["a.png", "--threads", "0"], "--threads must be an integer, at least 1"),
        (["other/large.png"], "resize it, or let --fit crop or --fit pad do it"),
        (["other/clear.png"], "convert it, or let --fit crop or --fit pad do it"),
        (["a.png", "--fit", "stretch"], "--fit must be crop or pad, not stretch"),
        (["a.png", "--device", "abacus"], "The device 'abacus' cannot be used"),
        (
            ["done/a.png", "done/a-1.png", "--out", "done", "--overwrite"],
            "one of the mixtures and would be",
        ),
    ],
)
def test_mistakes_are_one_sentence_and_lose_nothing(separator_folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    mixtures(tmp_path, ["a"]), mixtures(tmp_path / "other", ["a"]), mixtures(tmp_path / "done", ["a", "a-1"])
    save(tmp_path / "other" / "large.png", np.zeros((8, 9)))
    save(tmp_path / "other" / "clear.png", np.zeros((8, 8, 4)))
    before = (tmp_path / "done" / "a-1.png").read_bytes()
    defaults = [] if "--separator" in arguments else ["--separator", separator_folder]
    defaults += [] if "--out" in arguments else ["--out", "out"]
    with pytest.raises(SystemExit) as stopped:
        separate(*arguments, *defaults)
    assert message in str(stopped.value)
    assert str(stopped.value).startswith("lass: ")
    assert "\n" not in str(stopped.value)
    assert (tmp_path / "done" / "a-1.png").read_bytes() == before
    assert not list((tmp_path / "out").glob("*"))


def test_a_dollar_in_a_name_is_a_dollar(separator_folder, tmp_path, capsys):
    files = mixtures(tmp_path / "in", ["Ba$$in", "$a^b^c$"])
    separate(*files, "--separator", separator_folder, "--out", tmp_path / "out")
    names = {f"{stem}-{source}.png" for stem in ("Ba$$in", "$a^b^c$") for source in (1, 2)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "separations.png"}
    assert "picture: " in capsys.readouterr().out


def test_a_picture_that_fails_costs_no_estimates(separator_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *arguments, **options: 1 / 0)
    with pytest.warns(UserWarning, match=r"separations.png could not be made \(division by zero\)"):
        separate(*mixtures(tmp_path, ["a"]), "--separator", separator_folder, "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-1.png", "a-2.png"]
    assert "picture: " not in capsys.readouterr().out


def test_what_is_hidden_or_a_folder_does_not_stop_a_folder(tmp_path):
    """Hidden files and folders are skipped; macOS writes `._a.png` beside `a.png` on foreign file systems."""
    (image,) = mixtures(tmp_path, ["a"])
    (tmp_path / "._a.png").write_bytes(b"\0\5\26\7")
    (tmp_path / "more.png").mkdir()
    assert find_files([tmp_path], {".png"}, "images", "mixture.png") == [image]


@pytest.mark.parametrize("again", ["a.png", "./a.png", "../{}/a.png", "link.png", "hard.png", "."])
def test_the_same_file_twice_is_taken_once(tmp_path, monkeypatch, again):
    monkeypatch.chdir(tmp_path)
    mixtures(tmp_path, ["a"])
    if again == "link.png":
        (tmp_path / again).symlink_to("a.png")
    if again == "hard.png":
        (tmp_path / again).hardlink_to("a.png")
    with pytest.warns(
        UserWarning, match=r"1 of the 2 files are there twice.*\(for example a.png\): each is taken once"
    ):
        found = find_files([Path("a.png"), Path(again.format(tmp_path.name))], {".png"}, "images", "mixture.png")
    assert found == [Path("a.png")]


def test_the_number_of_mixtures_is_that_of_distinct_files(separator_folder, tmp_path, capsys):
    (image,) = mixtures(tmp_path, ["a"])
    with pytest.warns(UserWarning, match="each is taken once"):
        separate(image, image, "--separator", separator_folder, "--out", tmp_path / "out")
    assert "Estimates of 1 mixture(s)" in capsys.readouterr().out


@pytest.mark.parametrize("ignores_case", [False, True])
def test_names_that_differ_by_case_are_refused_where_they_are_one_file(
    separator_folder, tmp_path, monkeypatch, ignores_case
):
    """A case-insensitive file system is simulated; it is detected by a file's name in the other case."""
    monkeypatch.setattr("lass.cli.files._ignores_case", lambda folder: ignores_case)
    files = [*mixtures(tmp_path / "in", ["a"]), *mixtures(tmp_path / "other", ["A"])]
    arguments = [*files, "--separator", separator_folder, "--out", tmp_path / "out"]
    if ignores_case:
        with pytest.raises(SystemExit, match=r"would both become .*/[aA]-1.png"):
            separate(*arguments)
        assert not list((tmp_path / "out").iterdir())
    else:
        separate(*arguments)
        assert len(list((tmp_path / "out").iterdir())) == 5


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_a_stop_leaves_whole_files_only(separator_folder, tmp_path, monkeypatch, error):
    """The third estimate fails half-way; the files before it are complete, and it leaves none."""
    save_image, saved = Image.Image.save, []

    def save_half(image, path, *arguments, **options):
        saved.append(path)
        save_image(image, path, *arguments, **options)
        if len(saved) == 3:
            path.write_bytes(path.read_bytes()[:40])
            raise error

    files = mixtures(tmp_path / "in", ["a", "b"])
    monkeypatch.setattr(Image.Image, "save", save_half)
    kind = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else SystemExit
    with pytest.raises((kind, SystemExit)) as stopped:
        separate(*files, "--separator", separator_folder, "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-1.png", "a-2.png"]
    for path in (tmp_path / "out").iterdir():
        assert read_image(path).shape == (1, 8, 8)
    if isinstance(error, OSError):
        assert str(stopped.value).startswith(
            f"lass: {tmp_path}/out/b-1.png cannot be read or written (No space left on device)"
        )


def test_a_folder_that_cannot_be_written_is_found_out_before_anything_is_separated(
    separator_folder, tmp_path, monkeypatch
):
    def refuse(**options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    monkeypatch.setattr(Separator, "separate", lambda *arguments: pytest.fail("separated"))
    with pytest.raises(SystemExit, match=r"out cannot be written \(Permission denied\): make room or choose another"):
        separate(*mixtures(tmp_path, ["a"]), "--separator", separator_folder, "--out", tmp_path / "out")
