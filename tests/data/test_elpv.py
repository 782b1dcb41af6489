import importlib.util
from collections import Counter

import pytest

from anomaly_ft.data.layouts.detect import read_root
from anomaly_ft.errors import DataError


@pytest.mark.parametrize(("kind", "normal", "defective"), [("mono", 588, 313), ("poly", 920, 402)])
def test_the_demo_has_the_certain_cells_of_one_kind_of_module(kind: str, normal: int, defective: int) -> None:
    pytest.importorskip("elpv_dataset")
    reading = read_root(f"demo:elpv-{kind}")
    layout, records = reading.layout, reading.records
    assert layout == "elpv"
    test = round(0.2 * normal)
    assert Counter((r.split, r.kind) for r in records) == {
        ("train", "good"): normal - test,
        ("test", "good"): test,
        ("test", "defective"): defective,
    }
    assert len({record.name for record in records}) == len(records)
    assert all(record.path.is_file() for record in records)


def test_the_demo_keeps_the_same_test_images_always() -> None:
    pytest.importorskip("elpv_dataset")
    assert read_root("demo:elpv-mono") == read_root("demo:elpv-mono")


def test_without_the_package_its_name_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", nothing)
    with pytest.raises(DataError, match=r"elpv-dataset is not installed; pip install elpv-dataset"):
        read_root("demo:elpv-mono")


def test_an_unknown_demo_names_those_there_are() -> None:
    with pytest.raises(DataError, match="no demo source 'demo:elpv'; there are demo:elpv-mono, demo:elpv-poly"):
        read_root("demo:elpv")
