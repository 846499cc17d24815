"""The demo's models compute something, and the answers are right."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest

import authz_server.demo

MODELS = Path(authz_server.demo.__file__).parent / "models"


def load(model: str, version: str, module: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"{module}_{version}", MODELS / model / version / f"{module}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(params=["1", "2"])
def defects(request: pytest.FixtureRequest) -> ModuleType:
    return load("defect-detection", request.param, "defects")


@pytest.fixture
def forecasting() -> ModuleType:
    return load("demand-forecast", "1", "forecasting")


def noisy_image(height: int = 120, width: int = 160) -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(7).normal(128, 3, (height, width))
    return np.clip(noise, 0, 255).astype(np.uint8)


def test_both_versions_find_a_bright_and_a_dark_defect_where_they_are(
    defects: ModuleType,
) -> None:
    image = noisy_image()
    image[10:16, 20:27] = 220
    image[80:84, 100:112] = 30
    boxes, scores = defects.find_defects(image)
    assert boxes.tolist() == [[10, 20, 16, 27], [80, 100, 84, 112]]
    assert (scores > 20).all()


def test_both_versions_find_nothing_in_noise(defects: ModuleType) -> None:
    boxes, scores = defects.find_defects(noisy_image())
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)


def test_both_versions_find_nothing_in_an_even_image(defects: ModuleType) -> None:
    assert len(defects.find_defects(np.full((5, 5), 9, np.uint8))[0]) == 0


def test_both_versions_take_a_diagonal_scratch_for_one_defect(
    defects: ModuleType,
) -> None:
    image = noisy_image()
    for step in range(9):
        image[40 + step, 50 + step] = 255
    assert defects.find_defects(image)[0].tolist() == [[40, 50, 49, 59]]


def test_both_versions_ignore_a_single_hot_pixel(defects: ModuleType) -> None:
    image = noisy_image()
    image[3, 3] = 255
    assert len(defects.find_defects(image)[0]) == 0


def test_only_version_2_sees_a_faint_defect_under_uneven_light() -> None:
    light = np.linspace(20, 220, 160)[None, :].repeat(120, axis=0)
    image = (light + np.random.default_rng(7).normal(0, 2, light.shape)).astype(
        np.uint8
    )
    image[60:66, 30:36] += 40
    first = load("defect-detection", "1", "defects").find_defects(image)[0]
    second = load("defect-detection", "2", "defects").find_defects(image)[0]
    assert first.tolist() == []
    assert second.tolist() == [[60, 30, 66, 36]]


def test_a_straight_line_is_continued(forecasting: ModuleType) -> None:
    series = 5 + 3 * np.arange(30)
    assert forecasting.forecast(series, 3) == pytest.approx([95, 98, 101], abs=0.01)


def test_a_level_series_stays_level_under_noise(forecasting: ModuleType) -> None:
    series = 100 + np.random.default_rng(7).normal(0, 5, 200)
    assert forecasting.forecast(series, 5) == pytest.approx([100] * 5, abs=10)


def test_a_trend_is_found_under_noise(forecasting: ModuleType) -> None:
    series = 2 * np.arange(100) + np.random.default_rng(7).normal(0, 3, 100)
    assert forecasting.forecast(series, 10)[-1] == pytest.approx(218, abs=10)


@pytest.mark.parametrize(
    ("series", "horizon", "message"),
    [
        ([1, 2], 1, "at least 3"),
        ([1, float("nan"), 2], 1, "not finite"),
        ([1, 2, 3], 0, "HORIZON"),
        ([1, 2, 3], 1001, "HORIZON"),
    ],
)
def test_what_cannot_be_forecast_is_refused(
    forecasting: ModuleType, series: list[float], horizon: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        forecasting.forecast(series, horizon)
