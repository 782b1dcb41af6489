"""The induced Gaussian in fine-tuning: when statistics are fitted again, and when the last ones serve."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from anomaly_ft.model.inference import pooled_features, score_images


def move(method, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.mul_(1 + 0.05 * torch.randn_like(parameter))


def test_an_encoder_that_has_not_changed_is_not_fitted_twice(method):
    first = method.refit("refit")
    assert method.refit("refit") is first
    assert method.refit("refit", watching=False) is first


def test_an_encoder_that_has_changed_is_fitted_again(method):
    first = method.refit("refit")
    move(method, 1)
    assert method.refit("refit") is not first


def test_an_encoder_that_is_as_it_was_has_the_detector_that_was_fitted_to_it(method, make_textures):
    before = {name: value.clone() for name, value in method.encoder.state_dict().items()}
    move(method, 1)
    assert method.refit("refit").detector is not method.pretrained
    method.encoder.load_state_dict(before)
    for kind in ("refit", "pretrained"):
        assert method.refit(kind).detector is method.pretrained
    method._last, method._before = None, "of other weights"
    anew = method.refit("refit").detector
    assert anew is not method.pretrained
    images = make_textures(5, 32, 3)
    for name, scores in score_images(anew, images, method.compute).items():
        assert np.array_equal(scores, score_images(method.pretrained, images, method.compute)[name])


def test_what_is_remembered_scores_as_what_is_fitted_anew(method, make_textures):
    move(method, 1)
    best = {name: value.clone() for name, value in method.encoder.state_dict().items()}
    remembered = method.refit("refit")
    move(method, 2)
    method.encoder.load_state_dict(best)  # the best epoch's weights come back
    assert method.refit("refit") is remembered
    method._last = None
    anew = method.refit("refit")
    images = make_textures(5, 32, 3)
    for name, scores in score_images(anew.detector, images, method.compute).items():
        assert np.array_equal(scores, score_images(remembered.detector, images, method.compute)[name])


@pytest.mark.parametrize("score", ["pooled", "dense", "fused"])
def test_held_out_images_have_the_score_that_the_detector_gives_them(method, score):
    method.settings = replace(method.settings, score=score)
    move(method, 1)
    fit = method.refit("refit")
    assert fit.held_out == pytest.approx(method.score(fit.detector, method.inputs("val")), rel=1e-6)


def test_features_for_drift_are_fitted_where_the_last_fit_has_none(method):
    bare = method.refit("refit", watching=False)
    assert not bare.held_out_features
    assert method.refit("refit").held_out_features


def test_other_statistics_are_no_reason_to_use_the_last_ones(method):
    first = method.refit("refit")
    assert method.refit("pretrained") is not first
    with pytest.raises(ValueError, match="expected one of pretrained, refit"):
        method.refit("induced")


def test_the_floor_is_the_mean_squared_distance_of_training_images_before_training(method):
    method.floor = True
    expected = []
    for i, level in enumerate(pooled_features(method.encoder, method.inputs("train"), method.compute)):
        mean, whitening = (b.double().numpy() for b in method.pretrained.level_gaussian(i))
        expected.append(np.mean([np.sum((whitening @ (x - mean)) ** 2) for x in level.astype(float)]))
    assert method.objective().floor.tolist() == pytest.approx(expected, rel=1e-4)


def test_the_floor_is_of_images_evenly_drawn_where_there_are_many(method, monkeypatch):
    monkeypatch.setattr("anomaly_ft.finetune.methods.gaussian.FLOOR_IMAGES", 3)
    method.floor = True
    some = method.inputs("train")[[0, 10, 19]]  # 9.5 is rounded to even
    squared = method.pretrained.squared_level_distances(
        [torch.from_numpy(level) for level in pooled_features(method.encoder, some, method.compute)]
    )
    assert method.objective().floor.tolist() == pytest.approx(squared.mean(0).tolist(), rel=1e-4)


def test_without_a_floor_images_are_pulled_ever_nearer(method):
    assert method.objective().floor is None
