"""Decoding: every kind of file becomes 8-bit RGB, what cannot be read is named and counted."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from anomaly_ft.data.dataset import Options, load_dataset
from anomaly_ft.data.images import read_image, resize_image, resize_mask
from anomaly_ft.data.layouts.detect import read_root
from anomaly_ft.data.loaded import load_images
from anomaly_ft.data.masks import read_mask
from anomaly_ft.data.records import Record
from anomaly_ft.data.splits import Shares
from anomaly_ft.errors import DataError

RED = (200, 30, 10)
FEW = {"image_size": 8, "shares": Shares(val=0.2, calibration=0.2)}
DEEP = np.array([[0, 200, 256, 1000, 30000, 65535]], np.uint16)


def is_near(path, colour, tolerance=0):
    pixels = np.asarray(read_image(path)).astype(int)
    assert pixels.shape == (6, 8, 3)
    return np.abs(pixels - colour).max() <= tolerance


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("a.png", 0), ("a.bmp", 0), ("a.tif", 0), ("a.tiff", 0), ("a.jpg", 4), ("a.JPEG", 4), ("a.webp", 4)],
)
def test_colours_survive_every_file_format(tmp_path, name, tolerance):
    Image.new("RGB", (8, 6), RED).save(tmp_path / name)
    assert is_near(tmp_path / name, RED, tolerance)


@pytest.mark.parametrize(
    ("mode", "colour", "seen"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 255), (77, 77, 77)),
        ("RGBA", (*RED, 255), RED),
        ("RGBA", (*RED, 0), RED),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("P", 5, None),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, colour, seen):
    image = Image.new(mode, (8, 6), colour)
    if mode == "P":
        image.putpalette([v for i in range(256) for v in (RED if i == 5 else (0, 0, 0))])
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    assert is_near(path, seen or RED)


def test_cmyk_jpeg_is_read(tmp_path):
    Image.new("CMYK", (8, 6), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    assert is_near(tmp_path / "a.jpg", (255, 0, 0), tolerance=6)


def test_a_transparent_palette_colour_is_white(tmp_path):
    image = Image.new("P", (8, 6), 0)
    image.putpalette([0, 0, 0] * 256)
    image.paste(1, (4, 0, 8, 6))
    image.save(tmp_path / "a.png", transparency=0)
    pixels = np.asarray(read_image(tmp_path / "a.png"))
    assert (pixels[:, :4] == 255).all()
    assert not pixels[:, 4:].any()


def test_a_picture_on_its_side_is_set_upright(tmp_path):
    image = Image.new("RGB", (6, 8))
    image.paste(RED, (0, 0, 6, 1))  # a red edge at the top of the stored picture
    exif = Image.Exif()
    exif[274] = 6  # shown turned by 90 degrees clockwise: that edge is then at the right
    image.save(tmp_path / "a.png", exif=exif)
    pixels = np.asarray(read_image(tmp_path / "a.png"))
    assert pixels.shape == (6, 8, 3)
    assert (pixels[:, -1] == RED).all()
    assert not pixels[:, :-1].any()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, name):
    Image.fromarray(DEEP).save(tmp_path / name)
    expected = np.rint(DEEP / 65535 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert np.array_equal(np.asarray(read_image(tmp_path / name)), expected)
    assert expected[0, :, 0].tolist() == [0, 1, 1, 4, 117, 255]


def test_big_endian_sixteen_bits_are_scaled_alike(tmp_path):
    rows = DEEP.astype(">u2").tobytes()
    tags = [(256, 3, 6), (257, 3, 1), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 3, 1)]
    tags += [(279, 4, len(rows))]
    entries = b"".join(
        struct.pack(">HHI", tag, kind, 1) + (struct.pack(">HH", v, 0) if kind == 3 else struct.pack(">I", v))
        for tag, kind, v in tags
    )
    body = b"MM\x00*" + struct.pack(">I", 8 + len(rows)) + rows
    (tmp_path / "a.tif").write_bytes(body + struct.pack(">H", len(tags)) + entries + b"\0\0\0\0")
    assert np.asarray(read_image(tmp_path / "a.tif"))[0, :, 0].tolist() == [0, 1, 1, 4, 117, 255]


def test_a_twelve_bit_camera_uses_its_own_range(tmp_path):
    Image.fromarray(np.array([[0, 2048, 4095]], np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png", (0, 4095)))[0, :, 0].tolist() == [0, 128, 255]


def test_the_range_leaves_eight_bits_alone(tmp_path):
    Image.new("L", (8, 6), 77).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png", (0, 4095)))[0, 0, 0] == 77


def test_values_outside_the_range_are_refused_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 5000]], np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"values 0 to 5000 reach beyond 0 to 4095; set data.range"):
        read_image(tmp_path / "a.png", (0, 4095))


def test_floating_point_needs_a_range(tmp_path):
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="floating-point values 0 to 1: which is white"):
        read_image(tmp_path / "a.tif")
    assert np.asarray(read_image(tmp_path / "a.tif", (0, 1)))[0, :, 0].tolist() == [0, 128, 255]


def test_thirty_two_bits_beyond_sixteen_need_a_range(tmp_path):
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="reach beyond 0 to 65535"):
        read_image(tmp_path / "a.tif")
    assert np.asarray(read_image(tmp_path / "a.tif", (0, 70000)))[0, :, 0].tolist() == [0, 255]


COLOUR = np.array([[[0, 256, 65535], [30000, 1000, 200]], [[1, 2, 3], [129, 4095, 40000]]], np.uint16)


def png(width, height, bits, colour, rows, orientation=None):
    """The bytes of a PNG, for kinds that Pillow does not write."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head)]
    if orientation:
        tags = struct.pack(">HHHIHH", 1, 274, 3, 1, orientation, 0)
        parts.append(chunk(b"eXIf", b"MM\0*" + struct.pack(">I", 8) + tags + b"\0\0\0\0"))
    return b"".join([*parts, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def deep_png(values, orientation=None):
    """16 bits a channel; grey with opacity, RGB or RGBA, by how many channels `(h, w, channels)` has."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(width, height, 16, {2: 4, 3: 2, 4: 6}[channels], rows, orientation)


def deep_tiff(values, orientation=None, photometric=2):
    height, width, channels = values.shape
    rows = values.astype("<u2").tobytes()
    tags = {
        256: width,
        257: height,
        259: 1,
        262: photometric,
        274: orientation or 1,
        277: channels,
        278: height,
    }
    if channels == 4 and photometric == 2:
        tags[338] = 2  # the fourth is opacity
    count = len(tags) + 3
    bits = 8 + 2 + 12 * count + 4
    entries = {tag: struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items()}
    entries[258] = struct.pack("<HHII", 258, 3, channels, bits)
    entries[273] = struct.pack("<HHII", 273, 4, 1, bits + 2 * channels)
    entries[279] = struct.pack("<HHII", 279, 4, 1, len(rows))
    head = b"II*\0" + struct.pack("<IH", 8, count)
    body = b"".join(entry for _, entry in sorted(entries.items()))
    return head + body + b"\0\0\0\0" + struct.pack(f"<{channels}H", *[16] * channels) + rows


@pytest.mark.parametrize(("name", "made"), [("a.png", deep_png), ("a.tif", deep_tiff)])
def test_sixteen_bit_colour_is_scaled_with_all_its_bits(tmp_path, name, made):
    (tmp_path / name).write_bytes(made(COLOUR))
    expected = np.rint(COLOUR / 65535 * 255).astype(np.uint8)
    assert np.array_equal(np.asarray(read_image(tmp_path / name)), expected)
    twelve = COLOUR // 16
    (tmp_path / name).write_bytes(made(twelve))
    expected = np.rint(twelve / 4095 * 255).astype(np.uint8)
    assert np.array_equal(np.asarray(read_image(tmp_path / name, (0, 4095))), expected)
    assert np.ptp(expected[1, 1]) > 100, "twelve bits read as sixteen would be nearly black"


@pytest.mark.parametrize(("name", "made"), [("a.png", deep_png), ("a.tif", deep_tiff)])
def test_sixteen_bit_colour_beyond_the_range_is_refused_not_clipped(tmp_path, name, made):
    (tmp_path / name).write_bytes(made(COLOUR))
    with pytest.raises(ValueError, match=r"values 0 to 65535 reach beyond 0 to 4095; set data.range"):
        read_image(tmp_path / name, (0, 4095))


@pytest.mark.parametrize(("name", "made"), [("a.png", deep_png), ("a.tif", deep_tiff)])
def test_sixteen_bit_colour_on_its_side_is_set_upright(tmp_path, name, made):
    (tmp_path / name).write_bytes(made(COLOUR, orientation=6))
    expected = np.rot90(np.rint(COLOUR / 65535 * 255).astype(np.uint8), k=-1)
    assert np.array_equal(np.asarray(read_image(tmp_path / name)), expected)


@pytest.mark.parametrize(("name", "made"), [("a.png", deep_png), ("a.tif", deep_tiff)])
def test_see_through_sixteen_bit_colour_stands_on_white(tmp_path, name, made):
    opacity = np.array([[65535, 0], [0, 65535]], np.uint16)
    (tmp_path / name).write_bytes(made(np.dstack([COLOUR, opacity])))
    found = np.asarray(read_image(tmp_path / name))
    assert (found[opacity == 0] == 255).all()
    seen = opacity > 0
    assert np.array_equal(found[seen], np.rint(COLOUR[seen] / 65535 * 255).astype(np.uint8))


def test_sixteen_bit_grey_with_opacity_is_scaled(tmp_path):
    values = np.dstack([COLOUR[..., 0], np.full((2, 2), 65535, np.uint16)])
    (tmp_path / "a.png").write_bytes(deep_png(values))
    found = np.asarray(read_image(tmp_path / "a.png"))
    assert np.array_equal(found[..., 1], np.rint(COLOUR[..., 0] / 65535 * 255).astype(np.uint8))


def test_sixteen_bits_of_printing_inks_are_read_without_a_range(tmp_path):
    inks = np.full((2, 2, 4), [0, 65535, 65535, 0], np.uint16)
    (tmp_path / "a.tif").write_bytes(deep_tiff(inks, photometric=5))
    assert np.asarray(read_image(tmp_path / "a.tif"))[0, 0].tolist() == [255, 0, 0]
    with pytest.raises(ValueError, match=r"16-bit CMYK together with data.range"):
        read_image(tmp_path / "a.tif", (0, 4095))


def test_damaged_sixteen_bit_colour_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(deep_png(COLOUR.repeat(50, 0))[:100])
    with pytest.raises(ValueError, match="16-bit colour that cannot be decoded"):
        read_image(tmp_path / "a.png")


def broken(folder):
    """One file for each way of being unreadable."""
    whole = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    whole.save(folder / "whole.png")
    whole.save(folder / "whole.jpg")
    for name in ("whole.png", "whole.jpg"):
        data = (folder / name).read_bytes()
        (folder / f"truncated{name[-4:]}").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"this is no image")
    (folder / "bomb.png").write_bytes(png(60000, 60000, 8, 0, b"\0" * 100))
    data = bytearray((folder / "whole.png").read_bytes())
    data[60:90] = b"x" * 30
    (folder / "scrambled.png").write_bytes(data)


def test_every_unreadable_file_is_named_and_the_others_are_read(tmp_path):
    broken(tmp_path)
    records = [Record(tmp_path, path.name, "train") for path in sorted(tmp_path.iterdir())]
    images = load_images(records, 8, threads=2)
    assert [r.name for r in images.records] == ["whole.jpg", "whole.png"]
    why = {record.name: text for record, text in images.skipped}
    assert set(why) == {"bomb.png", "empty.png", "scrambled.png", "text.jpg", "truncated.jpg", "truncated.png"}
    assert why["bomb.png"].startswith(
        "3,600,000,000 pixels are more than the 178,956,970 that are read at once"
    )
    assert why["empty.png"] == "ValueError: the file is empty"
    assert why["text.jpg"] == "not an image, or of a kind that cannot be read"
    assert "truncated" in why["truncated.jpg"]


def test_a_file_that_vanishes_is_named(tmp_path, paint):
    records = [Record(tmp_path, paint("a.png").name, "train"), Record(tmp_path, "b.png", "train")]
    assert "FileNotFoundError" in load_images(records, 8).skipped[0][1]


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 1 images could be read; first: .*the file is empty"):
        load_images([Record(tmp_path, "a.png", "train")], 8)


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_more_bad_files_than_allowed_are_an_error_with_the_list(tmp_path, paint, cache):
    for i in range(18):
        paint(f"set/{i:02}.png")
    for name in ("bad.png", "worse.png"):
        (tmp_path / "set" / name).write_bytes(b"")
    where = {"cache": cache, "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(
        DataError, match=r"2 of 20 images cannot be read, more than the 1.0%(.|\n)*bad\.png: .*empty"
    ):
        load_dataset(str(tmp_path / "set"), **FEW, options=Options(**where))
    data = load_dataset(str(tmp_path / "set"), **FEW, options=Options(max_bad_share=0.1, **where))
    empty = "ValueError: the file is empty"
    assert [(r.name, why) for r, why in data.skipped] == [("bad.png", empty), ("worse.png", empty)]
    assert len(data.undivided) == 18


def test_a_single_bad_file_is_skipped_however_few_images_there_are(tmp_path, paint):
    for i in range(19):
        paint(f"{i:02}.png")
    (tmp_path / "bad.png").write_bytes(b"")
    data = load_dataset(str(tmp_path), **FEW, options=Options(cache="memory"))
    assert [record.name for record, _ in data.skipped] == ["bad.png"]


def test_on_error_fail_refuses_the_first_bad_file(tmp_path, paint):
    for i in range(19):
        paint(f"{i:02}.png")
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"more than the 0.0% allowed"):
        load_dataset(str(tmp_path), **FEW, options=Options(on_error="fail", max_bad_share=1.0))


def half_red(width, height):
    image = Image.new("RGB", (width, height), "blue")
    image.paste("red", (0, 0, width // 2, height))
    return image


def test_stretch_keeps_all_of_the_picture_in_another_shape():
    pixels = np.asarray(resize_image(half_red(80, 40), 8, "stretch"))
    assert pixels[4, 1].tolist() == [255, 0, 0]
    assert pixels[4, 6].tolist() == [0, 0, 255]


@pytest.mark.parametrize(("width", "height"), [(80, 40), (40, 80), (41, 83), (40, 40)])
def test_shortest_crop_keeps_the_middle(width, height):
    mask = np.zeros((height, width), bool)
    mask[height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4] = True
    assert resize_image(half_red(width, height), 20, "center-crop").size == (20, 20)
    found = np.argwhere(resize_mask(mask, 20, "center-crop"))
    assert np.abs(found.mean(0) - 9.5).max() <= 1
    assert len(found) == pytest.approx(16, abs=9)


def test_letterbox_keeps_the_shape_on_black():
    pixels = np.asarray(resize_image(half_red(80, 40), 8, "letterbox"))
    assert not pixels[:2].any()
    assert not pixels[6:].any()
    assert pixels[4, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("policy", ["stretch", "center-crop", "letterbox"])
def test_a_very_long_picture_is_resized_all_the_same(policy):
    assert resize_image(half_red(1000, 1), 16, policy).size == (16, 16)


def test_any_value_but_zero_is_part_of_a_mask(tmp_path):
    Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.array([[0, 1, 65535]], np.uint16)).save(tmp_path / "b.png")
    rgb = np.zeros((1, 3, 3), np.uint8)
    rgb[0, 1, 2] = rgb[0, 2, 0] = 7
    Image.fromarray(rgb).save(tmp_path / "c.png")
    for name in ("a.png", "b.png", "c.png"):
        assert read_mask(tmp_path / name).tolist() == [[False, True, True]]


def test_masks_stay_yes_or_no_when_resized():
    mask = np.zeros((40, 40), bool)
    mask[:, :20] = True
    small = resize_mask(mask, 8, "stretch")
    assert small.dtype == bool
    assert small[:, :4].all()
    assert not small[:, 4:].any()


def test_real_images_decode(real_data):
    records = read_root(str(real_data / "mvtec_bottle")).records[:4]
    assert load_images(records, 32).pixels.shape == (4, 32, 32, 3)
