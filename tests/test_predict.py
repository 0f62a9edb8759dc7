"""Image files of every kind, sound and unsound, and what evaluate.py predict says about them."""

import io
import json
import os
import struct

import numpy as np
import pytest
import scipy.special
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import export
import flags
import pictures
import predict
from data import CLASSES
from errors import UserError

COLOURS = np.random.default_rng(3).integers(0, 256, (7, 9, 3)).astype(np.uint8)
PHOTO = Image.fromarray(COLOURS).resize((120, 80), Image.Resampling.BICUBIC)  # smooth, so that JPEG keeps it


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def animation():
    return encoded(
        PHOTO, "GIF", save_all=True, append_images=[Image.new("RGB", PHOTO.size, c) for c in ("red", "blue")]
    )


FILES = {
    "rgb.png": encoded(PHOTO, "PNG"),
    "rgb.jpg": encoded(PHOTO, "JPEG", quality=95),
    "progressive.jpg": encoded(PHOTO, "JPEG", quality=95, progressive=True),
    "still.gif": encoded(PHOTO, "GIF"),
    "animated.gif": animation(),
    "rgb.bmp": encoded(PHOTO, "BMP"),
}


@pytest.fixture(scope="module")
def decoder():
    return pictures.Decoder()


@pytest.fixture
def decode(decoder, tmp_path):
    """The 32x32 image of a file with this content."""

    def decode(content):
        path = tmp_path / "file"
        path.write_bytes(content)
        return decoder(path)

    return decode


def by_pillow(image):
    """Central square, antialiased: what `Decoder` does, by Pillow."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = image.convert("RGB").crop((left, top, left + side, top + side))
    return np.asarray(square.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)


@pytest.mark.parametrize("name", FILES)
def test_every_format_is_pillows_image(decode, name):
    expected = by_pillow(Image.open(io.BytesIO(FILES[name])))
    image = decode(FILES[name])
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)
    assert np.abs(image - expected).max() <= (8 if name.endswith("jpg") else 3)  # chroma is scaled up another way


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (1, 500), (500, 1), (31, 33), (64, 64), (700, 300)], ids=str)
def test_every_size_is_pillows_image(decode, size):
    image = PHOTO.resize(size)
    difference = np.abs(decode(encoded(image, "PNG")) - by_pillow(image))
    assert difference.max() <= (0 if size == (32, 32) else 3)


def test_grey_has_three_equal_channels(decode):
    grey = PHOTO.convert("L")
    for kind in ("PNG", "JPEG", "GIF", "BMP"):
        image = decode(encoded(grey, kind))
        assert np.abs(image - by_pillow(grey)).max() <= 6, kind
        assert np.ptp(image, axis=2).max() == 0, kind


def test_sixteen_bits_are_the_same_picture(decode):
    values = np.asarray(PHOTO.convert("L")).astype(np.uint16) * 257
    assert np.abs(decode(encoded(Image.fromarray(values), "PNG")) - by_pillow(PHOTO.convert("L"))).max() <= 3


def test_palettes_are_resolved(decode):
    palette = PHOTO.quantize(16)
    for kind in ("PNG", "GIF", "BMP"):
        assert np.abs(decode(encoded(palette, kind)) - by_pillow(palette)).max() <= 3, kind


def test_cmyk_jpeg_is_read(decode):
    assert np.abs(decode(encoded(PHOTO.convert("CMYK"), "JPEG", quality=95)) - by_pillow(PHOTO)).max() <= 12


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(decode, mode):
    image = Image.new(mode, (40, 40), (0,) * len(mode))
    image.paste((0,) * (len(mode) - 1) + (255,), (0, 0, 20, 40))
    pixels = decode(encoded(image, "PNG"))
    assert (pixels[:, :14] == 0).all()
    assert (pixels[:, 18:] == 255).all()


def test_fourth_byte_of_a_bmp_is_no_alpha(decode):
    image = Image.fromarray(np.dstack([np.asarray(PHOTO), np.zeros(PHOTO.size[::-1], np.uint8)]), "RGBA")
    assert np.abs(decode(encoded(image, "BMP")) - by_pillow(PHOTO)).max() <= 3


def test_bmp_from_the_top_down(decode):
    content = bytearray(encoded(PHOTO, "BMP"))
    struct.pack_into("<i", content, 22, -PHOTO.height)
    assert np.abs(decode(bytes(content)) - by_pillow(PHOTO)[::-1]).max() <= 3


def test_first_frame_only_of_an_animation(decode):
    content = animation()
    cut = pictures.first_frame(content)
    assert len(cut) < len(content)
    assert Image.open(io.BytesIO(cut)).n_frames == 1
    assert np.abs(decode(content) - by_pillow(Image.open(io.BytesIO(content)))).max() <= 3


# ---------------------------------------------------------------------------------------------------------------
# Unsound files


@pytest.mark.parametrize("name", FILES)
def test_truncated_anywhere_is_one_sentence(decode, name):
    content = FILES[name]
    whole = len(pictures.first_frame(content)) if name == "animated.gif" else len(content)
    for length in [4, 9, 13, 17, 25, 30, 60, *np.linspace(100, whole - 12, 12).astype(int)]:
        with pytest.raises(UserError, match="truncated or damaged"):
            decode(content[:length])


def claiming(name, width, height):
    """The file, its header changed to claim another size."""
    content = bytearray(FILES[name])
    if name.endswith("png"):
        struct.pack_into(">II", content, 16, width, height)
    elif name.endswith("gif"):
        struct.pack_into("<HH", content, 6, width, height)
    elif name.endswith("bmp"):
        struct.pack_into("<ii", content, 18, width, height)
    else:
        at = content.index(b"\xff\xc2" if name == "progressive.jpg" else b"\xff\xc0")
        struct.pack_into(">HH", content, at + 5, height, width)
    return bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_bomb_is_refused_by_its_header(decode, decoder, name, monkeypatch):
    monkeypatch.setattr(decoder, "image", None)  # nothing is decoded
    with pytest.raises(UserError, match=r"has 60000x60000 pixels, more than 50,000,000"):
        decode(claiming(name, 60_000, 60_000))


def test_frame_larger_than_its_gif_is_refused(decode):
    content = bytearray(FILES["still.gif"])
    struct.pack_into("<HH", content, content.index(b"\x2c\0\0\0\0") + 5, 60_000, 60_000)
    with pytest.raises(UserError, match="60000x60000 pixels"):
        decode(bytes(content))


@pytest.mark.parametrize(
    "content", [b"", b"GI", b"hello", b"\0" * 1000, b"<svg/>", encoded(PHOTO, "TIFF"), encoded(PHOTO, "WEBP")], ids=len
)
def test_other_files_are_no_image(decode, content):
    with pytest.raises(UserError, match="is no JPEG, PNG, GIF or BMP image"):
        decode(content)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(FILES)), damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8)
)
def test_damaged_file_is_an_image_or_one_sentence(decode, monkeypatch, name, damage):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100_000)
    content = bytearray(FILES[name])
    for where, value in damage:
        content[int(where**3 * (len(content) - 1))] = value  # the header above all
    try:
        assert decode(bytes(content)).shape == (32, 32, 3)
    except UserError as error:
        assert "\n" not in str(error)


def test_large_file_is_refused_unread(decoder, tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(pictures.MAX_BYTES + 1)
    monkeypatch.setattr(type(path), "read_bytes", None)
    with pytest.raises(UserError, match="more than 64 MiB"):
        decoder(path)


def test_what_is_no_file_is_named(decoder, tmp_path):
    os.mkfifo(tmp_path / "fifo")  # reading it would wait for ever
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "empty").mkdir()
    cases = {
        "fifo": "no regular file",
        "dangling": "not exist",
        "none": "not exist",
        "empty": "directory without files",
    }
    for name, sentence in cases.items():
        with pytest.raises(UserError, match=sentence):
            decoder(tmp_path / name)


def test_directory_stands_for_its_files_in_order(tmp_path):
    for name in ("b.png", "a.jpg", ".hidden", "below/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert pictures.expand([tmp_path, "x.png"]) == [tmp_path / "a.jpg", tmp_path / "b.png", pictures.Path("x.png")]
    (tmp_path / "none").mkdir()
    assert pictures.expand([tmp_path / "none"]) == [tmp_path / "none"]


# ---------------------------------------------------------------------------------------------------------------
# The command


def arguments(*argv):
    return flags.build_evaluate_parser().parse_args(["predict", *map(str, argv)])


@pytest.fixture
def test_images(trained, tmp_path):
    """The first test images of the run as PNG files in a directory, with their number."""
    directory = tmp_path / "images"
    directory.mkdir()
    for number, image in enumerate(trained.dataset.test.images[:5]):
        Image.fromarray(image).save(directory / f"{number}.png")
    return directory


def expected(trained, label):
    return scipy.special.softmax(trained.logits(label).astype(np.float64), axis=1)[:5]


def test_raw_and_ema_say_what_the_run_says(trained, test_images, capsys):
    predict.main(arguments("--run_dir", trained.path, test_images, "--json"))
    document = json.loads(capsys.readouterr().out)
    assert document["classifiers"] == ["raw", "ema/0.90/averaged"]
    assert [entry["image"] for entry in document["images"]] == [str(test_images / f"{i}.png") for i in range(5)]
    for label in document["classifiers"]:
        for entry, probabilities in zip(document["images"], expected(trained, label), strict=True):
            prediction = entry["predictions"][label]
            assert prediction["class"] == CLASSES[probabilities.argmax()]
            assert prediction["probability"] == pytest.approx(probabilities.max(), abs=1e-6)
            assert list(prediction["probabilities"]) == list(CLASSES)
            assert list(prediction["probabilities"].values()) == pytest.approx(probabilities.tolist(), abs=1e-6)


def test_table_has_them_side_by_side_and_errors_stand_apart(trained, test_images, capsys):
    (test_images / "2.png").write_bytes(b"no image")
    missing = test_images / "missing.png"
    with pytest.raises(SystemExit) as end:
        predict.main(arguments("--run_dir", trained.path, missing, test_images))
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        f"evaluate.py: {missing}: does not exist",
        f"evaluate.py: {test_images / '2.png'}: is no JPEG, PNG, GIF or BMP image",
    ]
    header, *lines = out.splitlines()
    assert header.split() == ["image", "raw", "ema/0.90/averaged"]
    raw, ema = (expected(trained, label) for label in ("raw", "ema/0.90/averaged"))
    assert len(lines) == 4
    for line, number in zip(lines, (0, 1, 3, 4), strict=True):
        name, *cells = line.split()
        assert name == str(test_images / f"{number}.png")
        assert cells[::2] == [CLASSES[one[number].argmax()] for one in (raw, ema)]
        percents = [100 * one[number].max() for one in (raw, ema)]
        assert [float(cell.rstrip("%")) for cell in cells[1::2]] == pytest.approx(percents, abs=0.0051)


def test_nothing_but_errors(trained, capsys):
    with pytest.raises(SystemExit):
        predict.main(arguments("--run_dir", trained.path, "missing.png"))
    assert capsys.readouterr().out == ""


def test_exported_classifier_is_alone_in_its_table(trained, test_images, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export, "verify", lambda *_: {})  # tested elsewhere
    export.write(trained, "ema/0.90/raw", tmp_path / "model")
    predict.main(arguments("--model", tmp_path / "model", test_images, "--json"))
    document = json.loads(capsys.readouterr().out)
    assert document["classifiers"] == ["ema/0.90/raw"]
    for entry, probabilities in zip(document["images"], expected(trained, "ema/0.90/raw"), strict=True):
        assert entry["predictions"]["ema/0.90/raw"]["probability"] == pytest.approx(probabilities.max(), abs=1e-6)


@pytest.mark.parametrize(
    "argv",
    [[], ["a.png"], ["--run_dir", "x"], ["--run_dir", "x", "--model", "y", "a.png"]],
    ids=str,
)
def test_usage_errors_have_status_2(argv):
    with pytest.raises(SystemExit) as error:
        arguments(*argv)
    assert error.value.code == 2


@pytest.mark.parametrize("source", ["--run_dir", "--model"])
def test_no_run_and_no_model_are_one_sentence(tmp_path, source):
    with pytest.raises(UserError, match="python train.py" if source == "--run_dir" else "evaluate.py export"):
        predict.main(arguments(source, tmp_path / "nowhere", "a.png"))


def test_names_cannot_steer_the_terminal():
    assert predict.shown(pictures.Path("a\x1b[2J\n.png")) == "a?[2J?.png"
    assert predict.shown(pictures.Path(os.fsdecode(b"\xff.png"))).endswith(".png")


@pytest.mark.slow
def test_recomputed_statistics_are_recomputed(run, tmp_path):
    from conftest import TINY_RUN

    directory = tmp_path / "run"
    argv = ["--ema_batch_stats", "recomputed", "--ema_decay", "0.8", "--epochs", 1, "--run_dir", directory]
    assert run("train.py", *TINY_RUN, *argv).returncode == 0
    image = tmp_path / "image.png"
    dataset = predict.Trained(directory).dataset
    Image.fromarray(dataset.test.images[0]).save(image)
    result = run("evaluate.py", "predict", "--run_dir", directory, image, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    answers = json.loads(result.stdout)["images"][0]["predictions"]
    with np.load(directory / "predictions.npz", allow_pickle=False) as logits:
        for label in ("raw/recomputed", "ema/0.8/recomputed"):
            probability = scipy.special.softmax(logits[label][0].astype(np.float64)).max()
            assert answers[label]["probability"] == pytest.approx(probability, abs=1e-5)
