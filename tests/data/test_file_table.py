"""Every row of the tables of docs/layouts.md about images and masks, on files made here."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, features
from test_layout_table import rows

from anomaly_ft.data.checks.report import inspect
from anomaly_ft.data.dataset import load_dataset
from anomaly_ft.data.images import Decoder, read_image, to_rgb, why_unreadable
from anomaly_ft.data.layouts.detect import read_root
from anomaly_ft.data.masks import read_mask
from anomaly_ft.data.splits import Shares
from anomaly_ft.deploy.inputs import to_pixels
from anomaly_ft.errors import DataError

SHARES = Shares(val=0.2, calibration=0.2)
RAMP = (np.arange(48 * 64).reshape(48, 64) * 21).astype(np.uint16)  # up to 64,491
DEEP = np.dstack([RAMP, RAMP[::-1], RAMP[:, ::-1]])
OPACITY = np.tile(np.linspace(0, 65535, 64), (48, 1)).astype(np.uint16)
Row = Callable[[Path], None]


def eight(values: np.ndarray) -> np.ndarray:
    return np.rint(values / 65535 * 255).astype(int)


def on_white(colour: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    share = opacity[..., None] / 65535
    return (colour / 65535 * share + 1 - share) * 255


def off(path: Path, expected: np.ndarray, value_range: tuple[float, float] | None = None) -> float:
    """The largest difference between what is read and what is right, of 255."""
    seen = np.asarray(read_image(path, value_range)).astype(float)
    return float(np.abs(seen - (expected if expected.ndim == 3 else expected[..., None])).max())


def tiff(path: Path, values: np.ndarray, *, planes: bool = False, **tags: int) -> Path:
    """An uncompressed 16-bit TIFF `(height, width[, channels])`, its channels interleaved or in planes."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    body = (np.moveaxis(values, -1, 0) if planes else values).astype("<u2").tobytes()
    strips = channels if planes else 1
    entries = {256: width, 257: height, 259: 1, 262: 2 if channels > 1 else 1, 277: channels, 278: height}
    entries |= {284: 2 if planes else 1} | {int(key[1:]): value for key, value in tags.items()}
    after, extra = 8 + len(body), b""

    def several(tag: int, kind: str, numbers: list[int]) -> bytes:
        nonlocal extra
        code, size = {"H": (3, 2), "I": (4, 4)}[kind]
        packed = struct.pack(f"<{len(numbers)}{kind}", *numbers)
        if len(packed) > 4:
            where, extra = struct.pack("<I", after + len(extra)), extra + packed
        else:
            where = packed.ljust(4, b"\0")
        return struct.pack("<HHI", tag, code, len(packed) // size) + where

    rows_of = {tag: several(tag, "I", [value]) for tag, value in entries.items()}
    rows_of[258] = several(258, "H", [16] * channels)
    each = len(body) // strips
    rows_of[273] = several(273, "I", [8 + i * each for i in range(strips)])
    rows_of[279] = several(279, "I", [each] * strips)
    table = b"".join(row for _, row in sorted(rows_of.items()))
    start = after + len(extra)
    path.write_bytes(
        b"II*\0" + struct.pack("<I", start) + body + extra + struct.pack("<H", len(rows_of)) + table + b"\0" * 4
    )
    return path


def known_endings(root: Path) -> None:
    image = Image.fromarray(eight(DEEP).astype(np.uint8))
    for ending in ("bmp", "gif", "jp2", "jpg", "pgm", "png", "ppm", "qoi", "tga", "tif", "webp", "JFIF", "PNG"):
        saved = image.convert("L") if ending == "pgm" else image
        kind = "JPEG" if ending == "JFIF" else None
        saved.save(root / f"{ending.lower()}{ending[:1]}.{ending}", format=kind)
    reading = read_root(str(root))
    assert len(reading.records) == 13
    assert not reading.unused
    for record in reading.records:
        assert read_image(record.path).size == (64, 48), record.name


def avif(root: Path) -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    Image.fromarray(eight(DEEP).astype(np.uint8)).save(root / "a.AVIF")
    assert read_image(read_root(str(root)).records[0].path).size == (64, 48)


def plugins(root: Path) -> None:
    from anomaly_ft.data.pixels import FOREIGN

    for ending in (".heic", ".heif", ".jxl"):
        (root / f"a{ending}").write_bytes(b"x")
    Image.fromarray(RAMP).save(root / "a.png")
    reading = read_root(str(root))
    named = {name for unused in reading.unused for name in unused.names if "pip install pillow-" in unused.why}
    assert named == {f"a{ending}" for ending in (".heic", ".heif", ".jxl") if ending in FOREIGN}
    assert len(named) + len(reading.records) == 4


def foreign(root: Path) -> None:
    for name in ("a.dcm", "b.npy", "c.CR2", "d.exr", "e.psd"):
        (root / name).write_bytes(b"x")
    Image.fromarray(RAMP).save(root / "a.png")
    said = {name: unused.why for unused in read_root(str(root)).unused for name in unused.names}
    assert set(said) == {"a.dcm", "b.npy", "c.CR2", "d.exr", "e.psd"}
    assert all("save these as PNG or TIFF" in why for why in said.values())
    (root / "a.png").unlink()
    with pytest.raises(DataError, match=r"no images below(.|\n)*NumPy's arrays"):
        read_root(str(root))


def opacity_nowhere(root: Path) -> None:
    colour = eight(DEEP).astype(np.uint8)
    nothing = np.zeros_like(colour[..., :1])
    Image.fromarray(np.dstack([colour, nothing])).save(root / "a.png")
    assert off(root / "a.png", colour) == 0
    Image.fromarray(np.dstack([colour[..., :1], nothing])).save(root / "b.png")
    assert off(root / "b.png", colour[..., 0]) == 0
    assert off(tiff(root / "c.tif", np.dstack([DEEP, np.zeros_like(RAMP)]), t338=2), eight(DEEP)) == 0


def opacity(root: Path) -> None:
    rgba = np.dstack([eight(DEEP), eight(OPACITY)]).astype(np.uint8)
    Image.fromarray(rgba).save(root / "a.png")
    assert off(root / "a.png", on_white(DEEP, OPACITY)) <= 2


def sixteen_bits(root: Path) -> None:
    Image.fromarray(RAMP).save(root / "grey.png")
    assert off(root / "grey.png", eight(RAMP)) == 0
    for ending in ("png", "tif", "ppm"):
        cv2.imwrite(str(root / f"a.{ending}"), DEEP[..., ::-1])
        assert off(root / f"a.{ending}", eight(DEEP)) == 0, ending
        cv2.imwrite(str(root / f"b.{ending}"), DEEP[..., ::-1] // 16)
        assert off(root / f"b.{ending}", np.rint((DEEP // 16) / 4095 * 255), (0, 4095)) == 0, ending


def premultiplied(root: Path) -> None:
    multiplied = np.rint(DEEP.astype(float) * OPACITY[..., None] / 65535).astype(np.uint16)
    path = tiff(root / "a.tif", np.dstack([multiplied, OPACITY]), t338=1)
    assert off(path, on_white(DEEP, OPACITY)) <= 2
    assert off(tiff(root / "b.tif", np.dstack([DEEP, OPACITY]), t338=2), on_white(DEEP, OPACITY)) <= 2


def fourth(root: Path) -> None:
    assert off(tiff(root / "a.tif", np.dstack([DEEP, OPACITY]), t338=0), eight(DEEP)) == 0


def white_is_zero(root: Path) -> None:
    path = tiff(root / "a.tif", RAMP, t262=0)
    assert off(path, eight(65535 - RAMP.astype(int))) <= 1
    twelve = RAMP // 16
    path = tiff(root / "b.tif", twelve, t262=0)
    assert off(path, np.rint((4095 - twelve.astype(int)) / 4095 * 255), (0, 4095)) <= 1


def in_planes(root: Path) -> None:
    assert off(tiff(root / "a.tif", DEEP, planes=True), eight(DEEP)) == 0
    assert (
        off(tiff(root / "b.tif", DEEP // 16, planes=True), np.rint((DEEP // 16) / 4095 * 255), (0, 4095)) == 0
    )
    multiplied = np.rint(DEEP.astype(float) * OPACITY[..., None] / 65535).astype(np.uint16)
    path = tiff(root / "c.tif", np.dstack([multiplied, OPACITY]), planes=True, t338=1)
    assert off(path, on_white(DEEP, OPACITY)) <= 2
    turned = tiff(root / "d.tif", DEEP, planes=True, t274=6)
    assert off(turned, np.rot90(eight(DEEP), -1)) == 0
    path.write_bytes(path.read_bytes()[:8] + b"")
    with pytest.raises(Exception, match=r"."):
        read_image(path)


def disagreeing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2.imwrite(str(root / "a.png"), DEEP[..., ::-1])
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.roll(DEEP, 20, axis=1))
    with pytest.raises(ValueError, match="two decoders read in two ways"):
        read_image(root / "a.png")


def inks(root: Path) -> None:
    path = tiff(root / "a.tif", np.dstack([DEEP, np.zeros_like(RAMP)]), t262=5)
    assert read_image(path).size == (64, 48)
    with pytest.raises(ValueError, match=r"16-bit CMYK together with data.range"):
        read_image(path, (0, 4095))


def animated_deep(root: Path) -> None:
    plain = io.BytesIO(cv2.imencode(".png", DEEP[..., ::-1])[1].tobytes()).getvalue()
    at = plain.index(b"IDAT") - 4

    def chunk(kind: bytes, body: bytes) -> bytes:
        from zlib import crc32

        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc32(kind + body))

    control = chunk(b"acTL", struct.pack(">II", 2, 0))
    frames = [chunk(b"fcTL", struct.pack(">IIIIIHHBB", i, 64, 48, 0, 0, 1, 10, 0, 0)) for i in (0, 1)]
    data = plain[plain.index(b"IDAT") + 4 : plain.index(b"IEND") - 8]
    second = frames[1] + chunk(b"fdAT", struct.pack(">I", 2) + data)
    end = plain.index(b"IEND") - 4
    (root / "a.png").write_bytes(plain[:at] + control + frames[0] + plain[at:end] + second + plain[end:])
    assert off(root / "a.png", eight(DEEP)) == 0


def bmp565(root: Path) -> None:
    red, green, blue = (DEEP[..., k].astype(int) for k in range(3))
    packed = ((red >> 11) << 11 | (green >> 10) << 5 | (blue >> 11)).astype("<u2")[::-1].tobytes()
    head = struct.pack("<IiiHHIIiiII3I", 40, 64, 48, 1, 16, 3, len(packed), 0, 0, 0, 0, 0xF800, 0x7E0, 0x1F)
    (root / "a.bmp").write_bytes(struct.pack("<2sIHHI", b"BM", 66 + len(packed), 0, 0, 66) + head + packed)
    assert off(root / "a.bmp", eight(DEEP)) <= 9


def floats(root: Path) -> None:
    Image.fromarray(RAMP.astype(np.float32)).save(root / "a.tif")
    with pytest.raises(ValueError, match="which is white"):
        read_image(root / "a.tif")
    assert off(root / "a.tif", eight(RAMP), (0, 65535)) == 0


def floats_with_holes(root: Path) -> None:
    for i in range(12):
        values = (RAMP + i).astype(np.float32)
        values[0, 0], values[1, 1] = np.nan, np.inf
        Image.fromarray(values).save(root / f"{i}.tif")
    report = inspect(str(root), shares=SHARES)
    said = {trouble.kind: trouble.files for trouble in report.troubles}
    assert said["not a number"][0] == "0.tif: 2 values"
    assert report.limits is not None
    assert (report.limits.low, report.limits.high) == (21, float(RAMP.max() + 11))
    seen = np.asarray(read_image(root / "0.tif", (0, 65535)))
    assert not seen[0, 0].any()
    assert not seen[1, 1].any()
    assert seen[2, 2, 0] == eight(RAMP)[2, 2]
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(root / "a.tif")
    with pytest.raises(ValueError, match="not one of the values is a number"):
        read_image(root / "a.tif", (0, 1))


def pages(root: Path) -> None:
    frames = [Image.fromarray(eight(DEEP).astype(np.uint8)[..., k]) for k in range(3)]
    for i, ending in enumerate(["tif", "gif", "png", "webp", *["bmp"] * 8]):
        more = {"save_all": True, "append_images": frames[1:]} if ending != "bmp" else {}
        frames[0].save(root / f"{i}.{ending}", **more)
    assert off(root / "0.tif", eight(DEEP)[..., 0]) == 0
    report = inspect(str(root), shares=SHARES)
    assert {t.kind: t.files for t in report.troubles}["pages"] == ("0.tif", "1.gif", "2.png", "3.webp")
    notices = load_dataset(str(root), image_size=32, shares=SHARES).notices
    assert notices == ("files hold several pages or frames, of which the first is used, such as 0.tif",)


def many_pixels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RAMP).save(root / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombError) as caught:
        read_image(root / "a.png")
    said = why_unreadable(caught.value)
    assert said.startswith("3,072 pixels are more than")
    assert "cut it into tiles" in said
    assert "ANOMALY_FT_MAX_PIXELS" in said


def pillow_images(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba = Image.fromarray(np.dstack([eight(DEEP), eight(OPACITY)]).astype(np.uint8))
    rgba.save(root / "rgba.png")
    rgba.convert("RGB").save(root / "turned.png", exif=exif)
    Image.fromarray(RAMP).save(root / "grey.png")
    cv2.imwrite(str(root / "colour.tif"), DEEP[..., ::-1] // 16)
    tiff(root / "inverted.tif", RAMP // 16, t262=0)
    for path in sorted(root.iterdir()):
        decoder = Decoder(32, value_range=None if path.name == "grey.png" else (0, 4095))
        expected = decoder(path)
        with Image.open(path) as opened:
            assert np.array_equal(to_pixels(opened, decoder), expected), path.name
        with Image.open(io.BytesIO(path.read_bytes())) as opened:
            assert np.array_equal(to_pixels(opened, decoder), expected), path.name
    with pytest.raises(DataError, match=r"a Pillow image of mode F: .*which is white"):
        to_pixels(Image.fromarray(RAMP.astype(np.float32)), Decoder(32))
    before = Image.fromarray(RAMP)
    to_rgb(before)
    assert before.mode == "I;16"


IMAGES = [
    known_endings, avif, plugins, foreign, opacity_nowhere, opacity, sixteen_bits, premultiplied, fourth,
    white_is_zero, in_planes, disagreeing, inks, animated_deep, bmp565, floats, floats_with_holes, pages,
    many_pixels, pillow_images,
]  # fmt: skip


def test_the_page_has_a_row_for_each_test() -> None:
    assert len(rows("Images")) == len(IMAGES)
    assert len(rows("Masks")) == 5


@pytest.mark.parametrize("row", range(len(IMAGES)), ids=[row.__name__ for row in IMAGES])
def test_a_kind_of_file_is_treated_as_the_page_says(
    row: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if IMAGES[row] in (disagreeing, many_pixels):
        IMAGES[row](tmp_path, monkeypatch)
    else:
        IMAGES[row](tmp_path)


MARKED = np.zeros((48, 64), np.uint8)
MARKED[10:20, 10:30] = 255
BLACK, WHITE = np.zeros_like(MARKED), np.full_like(MARKED, 255)
PALETTE = Image.fromarray(MARKED // 255)
PALETTE.putpalette([255, 255, 255, 255, 0, 0])
MASKS = {
    "grey, black and white, colour on black, 16 bits": Image.fromarray(MARKED.astype(np.uint16) * 257),
    "any on transparent": Image.fromarray(np.dstack([WHITE, 255 - MARKED, 255 - MARKED, MARKED])),
    "palette": PALETTE,
    "JPEG": Image.fromarray(MARKED),
}


@pytest.mark.parametrize("row", MASKS)
def test_a_mask_is_read_as_the_page_says(row: str, tmp_path: Path) -> None:
    path = tmp_path / ("mask.jpg" if row == "JPEG" else "mask.png")
    MASKS[row].save(path)
    assert row in [cells[0] for cells in rows("Masks")]
    assert np.mean(read_mask(path) != (MARKED > 0)) < (0.01 if row == "JPEG" else 1e-9)


@pytest.mark.parametrize(("value", "kind"), [(0, "empty mask"), (255, "full mask")])
def test_a_mask_that_marks_nothing_or_all_is_said(value: int, kind: str, tmp_path: Path) -> None:
    for name in [*(f"train/good/{i}.png" for i in range(8)), "test/crack/0.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RAMP).save(tmp_path / name)
    (tmp_path / "ground_truth/crack").mkdir(parents=True)
    Image.new("L", (64, 48), value).save(tmp_path / "ground_truth/crack/0_mask.png")
    assert kind in [trouble.kind for trouble in inspect(str(tmp_path), shares=SHARES).troubles]


@pytest.mark.parametrize(
    ("value", "said"), [("many", "expected a number of pixels, got 'many'"), ("0", "got '0'")]
)
def test_a_limit_of_pixels_that_is_no_number_is_refused(
    value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anomaly_ft.data import images

    monkeypatch.setenv("ANOMALY_FT_MAX_PIXELS", value)
    with pytest.raises(DataError, match=said):
        images._max_pixels()
    monkeypatch.setenv("ANOMALY_FT_MAX_PIXELS", "200000000")
    assert images._max_pixels() == 200_000_000
