"""Sums on disk, and the law of updates."""

from functools import reduce
from operator import add
from pathlib import Path

import pytest
import torch
from sklearn.covariance import LedoitWolf

from anomaly_ft.errors import EncoderError, RunError
from anomaly_ft.model.gaussian.statistics import Moments, fit, moments
from anomaly_ft.model.gaussian.sums import PartSums, load_sums, save_sums


def features(count: int, *shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.1, 3, shape[-1], dtype=torch.float64)
    return 40 + torch.randn(count, *shape, generator=generator, dtype=torch.float64) * scale


def through_a_file(sums: Moments, folder: Path) -> Moments:
    save_sums(folder, [sums])
    return load_sums(folder).sums[0]


@pytest.mark.parametrize("shape", [(9,), (5, 9)], ids=["pooled", "grid"])
def test_two_updates_are_one_with_both_and_a_fit_of_all(tmp_path: Path, shape: tuple[int, ...]) -> None:
    parts = [features(n, *shape, seed=n) for n in (40, 13, 7)]
    parts[1] += 2  # another light
    stored = through_a_file(moments(parts[0]), tmp_path)
    twice = through_a_file(stored + moments(parts[1]), tmp_path) + moments(parts[2])
    once = stored + moments(torch.cat(parts[1:]))
    whole = moments(torch.cat(parts))
    assert twice.count == once.count == whole.count == 60
    for sums in (twice, once):
        found, expected = fit(sums), fit(whole)
        torch.testing.assert_close(found.mean, expected.mean, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(found.whitening, expected.whitening, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(found.shrinkage, expected.shrinkage, rtol=1e-8, atol=1e-8)


def test_after_updates_the_covariance_is_that_of_scikit_learn(tmp_path: Path) -> None:
    parts = [features(n, 9, seed=n) for n in (30, 5, 11)]
    sums = reduce(add, [through_a_file(moments(part), tmp_path) for part in parts])
    expected = LedoitWolf().fit(torch.cat(parts).numpy())
    whitening = fit(sums).whitening
    precision = torch.from_numpy(expected.precision_)
    torch.testing.assert_close(whitening.mT @ whitening, precision, rtol=1e-8, atol=1e-10)


def test_sums_know_their_encoder_through_a_file_and_refuse_those_of_another(tmp_path: Path) -> None:
    one, another = "ab" * 32, "12" * 32
    sums = [moments(features(5, 3, seed=0))]
    (tmp_path / "bottle").mkdir()
    save_sums(tmp_path / "bottle", sums, one)
    kept = load_sums(tmp_path / "bottle")
    assert (kept.part, kept.encoder) == ("bottle", one)
    said = r"kolektor: .* sha256 121212121212…, but the sums of bottle are of the one with sha256 abababababab…"
    with pytest.raises(EncoderError, match=said) as refused:
        kept + PartSums("kolektor", another, sums)
    assert "\n" not in str(refused.value)
    assert (kept + PartSums("kolektor", one, sums)).sums[0].count == 10


def test_sums_of_before_encoders_were_noted_are_added_to(tmp_path: Path) -> None:
    save_sums(tmp_path, [moments(features(5, 3, seed=0))])
    kept = load_sums(tmp_path)
    assert not kept.encoder
    more = kept + PartSums("new", "ab" * 32, [moments(features(4, 3, seed=1))])
    assert (more.sums[0].count, more.encoder) == (9, "ab" * 32)


def test_a_file_holds_every_number_and_half_of_each_matrix(tmp_path: Path) -> None:
    sums = [moments(features(12, 6, seed=1)), moments(features(12, 4, 8, seed=2))]
    save_sums(tmp_path, sums)
    for before, after in zip(sums, load_sums(tmp_path).sums, strict=True):
        assert before.count == after.count
        for name in ("shift", "first", "second", "third", "fourth"):
            torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=1e-15, atol=1e-9)
    numbers = sum(
        m.shift[..., 0].numel() * (3 * d + 1 + d * (d + 1) // 2) for m, d in zip(sums, (6, 8), strict=True)
    )
    size = (tmp_path / "sums.safetensors").stat().st_size
    assert 8 * numbers < size < 8 * numbers + 2500, "what names and shapes take"


def test_no_sums_and_damaged_ones_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"keeps no sums to add to.*keep_sums.*train again"):
        load_sums(tmp_path)
    save_sums(tmp_path, [moments(features(5, 3, seed=0))])
    path = tmp_path / "sums.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match=r"sums\.safetensors is damaged"):
        load_sums(tmp_path)


def test_sums_of_a_newer_format_are_not_read_as_if_they_were_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr("anomaly_ft.model.gaussian.sums.FORMAT", 2)
        save_sums(tmp_path, [moments(features(5, 3, seed=0))])
    with pytest.raises(RunError, match="format 2, expected 1"):
        load_sums(tmp_path)
