"""The recipe's settings of the data: mistakes are found before anything is read."""

import pytest

from anomaly_ft.errors import RecipeError
from anomaly_ft.recipe.read import read_recipe


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("data.layout=mvtek", "data.layout: expected .*'mvtec'"),
        ("data.range=[4095, 0]", r"data.range: expected \[black, white\] with black < white"),
        ("data.resize=squash", "data.resize: expected 'stretch'"),
        ("data.manifest=nowhere.csv", r"data.manifest: file does not exist: nowhere\.csv"),
        ("expert.data.max_bad_share=2", "expert.data.max_bad_share: expected"),
        ("runtime.cache=maybe", "runtime.cache: expected 'auto'"),
        ("data.root=nowhere", "data.root: folder does not exist: nowhere"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, override, match):
    path = tmp_path / "r.yaml"
    path.write_text("data: {root: demo:elpv-mono}\n")
    with pytest.raises(RecipeError, match=match):
        read_recipe(path, [override])


def test_the_settings_reach_the_data(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("data: {root: demo:elpv-mono, range: [0, 4095], resize: letterbox, group_by: 'cell(.)'}\n")
    recipe = read_recipe(path, ["expert.runtime.cache_gib=0.5"])
    assert recipe.data.range == (0, 4095)
    path.write_text(recipe.to_yaml())
    assert read_recipe(path) == recipe


def test_a_manifest_may_be_the_root(tmp_path):
    (tmp_path / "list.csv").write_text("image_path,label_index\n")
    path = tmp_path / "r.yaml"
    path.write_text(f"data: {{root: {tmp_path / 'list.csv'}}}\n")
    assert read_recipe(path).data.root.endswith("list.csv")
