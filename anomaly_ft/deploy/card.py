"""The `README.md` of an export: what it is, where it comes from, and the shortest program that uses it.

The programs are run as they stand by the tests, where anomaly_ft cannot be imported.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from anomaly_ft import __version__
from anomaly_ft.data.pixels import sides
from anomaly_ft.deploy.formats import OPSET, describe
from anomaly_ft.deploy.parity import Parity
from anomaly_ft.model.loading import LoadedRun

TITLES = {
    "timm": "a timm encoder",
    "onnx": "an anomaly detector for ONNX Runtime",
    "pt2": "an anomaly detector for torch.export",
    "openvino": "an anomaly detector for OpenVINO",
    "encoder-onnx": "an encoder for ONNX Runtime",
    "encoder-pt2": "an encoder for torch.export",
}
NEEDS = {
    "timm": "timm and Pillow",
    "onnx": "onnxruntime and Pillow",
    "pt2": "torch, torchvision and Pillow",
    "openvino": "openvino and Pillow",
    "encoder-onnx": "onnxruntime and Pillow",
    "encoder-pt2": "torch and Pillow",
}
READ = 'image = Image.open(sys.argv[1]).convert("RGB")'
STRETCH = "image = image.resize(({width}, {height}), Image.Resampling.BICUBIC)"
RESIZED = {
    "stretch": STRETCH,
    "native": STRETCH,
    "center-crop": """\
scale = max({width} / image.width, {height} / image.height)
image = image.resize([max(1, round(scale * side)) for side in image.size], Image.Resampling.BICUBIC)
left, top = (image.width - {width}) // 2, (image.height - {height}) // 2
image = image.crop((left, top, left + {width}, top + {height}))""",
    "letterbox": """\
scale = min({width} / image.width, {height} / image.height)
inner = image.resize([max(1, round(scale * side)) for side in image.size], Image.Resampling.BICUBIC)
image = Image.new("RGB", ({width}, {height}))
image.paste(inner, (({width} - inner.width) // 2, ({height} - inner.height) // 2))""",
}
RAW = "pixels = np.asarray(image)[None]"
NORMALISED = """\
pixels = (np.asarray(image) / 255 - {mean}) / {std}
pixels = pixels.transpose(2, 0, 1)[None].astype(np.float32)"""
PRINTED = 'print(float(score[0]), "anomalous" if decision[0] else "normal")'
LEVELS = "print([level.shape for level in levels])"
USES = {
    "timm": (
        "timm\nimport torch",
        """\
model = timm.create_model("local-dir:.", pretrained=True).eval()
stages = timm.create_model("local-dir:.", pretrained=True, features_only=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.inference_mode():
    pixels = transform(image)[None]
    features, levels = model(pixels), stages(pixels)
print(features.shape)
"""
        + LEVELS,
    ),
    "onnx": (
        "onnxruntime",
        """\
session = onnxruntime.InferenceSession("detector.onnx")
score, map, decision = session.run(None, {"image": pixels})
"""
        + PRINTED,
    ),
    "pt2": (
        "torch\nimport torchvision",
        """\
detector = torch.export.load("detector.pt2").module()
with torch.inference_mode():
    score, map, decision = detector(torch.from_numpy(pixels))
"""
        + PRINTED,
    ),
    "openvino": (
        "openvino",
        """\
settings = {"INFERENCE_PRECISION_HINT": "f32"}  # else some processors compute in bfloat16
detector = openvino.Core().compile_model("detector.xml", "CPU", settings)
score, map, decision = detector(pixels).values()
"""
        + PRINTED,
    ),
    "encoder-onnx": (
        "onnxruntime",
        """\
session = onnxruntime.InferenceSession("encoder.onnx")
levels = session.run(None, {"image": pixels})
"""
        + LEVELS,
    ),
    "encoder-pt2": (
        "torch",
        """\
encoder = torch.export.load("encoder.pt2").module()
with torch.inference_mode():
    levels = encoder(torch.from_numpy(pixels))
"""
        + LEVELS,
    ),
}


@dataclass(frozen=True)
class Card:
    """Where a run comes from. `epoch` is the one that was kept, 0 the pretrained encoder; `rows` are numbers
    on test images: name, pretrained, fine-tuned."""

    name: str
    encoder: str
    data: str
    epoch: int
    images: int
    licence: str  # of the weights it started from; empty: not known
    origin: str
    teacher: str  # with the SHA-256 of its weights; empty: none taught what was kept
    rows: Sequence[tuple[str, float, float]] = ()


def program(run: LoadedRun, form: str, raw: bool) -> str:
    """Write the shortest program that uses an export of this format without anomaly_ft."""
    library, use = USES[form]
    about = describe(run)
    lines = ["import sys\n"]
    if form == "timm":
        return "\n".join([*lines, f"import {library}", "from PIL import Image\n", READ, use])
    height, width = sides(run.decoder.size)
    resized = RESIZED[run.decoder.resize].format(height=height, width=width)
    pixels = RAW if raw else NORMALISED.format(mean=about["mean"], std=about["std"])
    head = [f"import numpy as np\nimport {library}", "from PIL import Image\n"]
    return "\n".join([*lines, *head, READ, resized, pixels, use])


def write_readme(run: LoadedRun, form: str, raw: bool, card: Card, parity: Parity) -> str:
    """Render the text of an export's `README.md`."""
    loader = Environment(
        loader=PackageLoader("anomaly_ft", "deploy"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    about = describe(run)
    return loader.get_template("readme.md.j2").render(
        form=form,
        training=run.detector.labels.training,
        raw=raw,
        card=card,
        parity=parity,
        title=TITLES[form],
        needs=NEEDS[form],
        program=program(run, form, raw),
        version=__version__,
        opset=OPSET,
        height=sides(run.decoder.size)[0],
        width=sides(run.decoder.size)[1],
        resize=about["resize"],
        mean=about["mean"],
        std=about["std"],
        levels=about["levels"],
        score=about["score"],
        threshold=about["threshold"],
    )
