"""Settings of training that would have no effect."""

from __future__ import annotations

from typing import Any

import pytest

from harness.trainers.config import (
    EngineCorrectionConfig,
    KlConfig,
    OverlongConfig,
)


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        (KlConfig, {"coefficient": 0.01}),
        (KlConfig, {"estimator": "k3"}),
        (KlConfig, {"ratio_weighted": True}),
        (OverlongConfig, {"penalty": 0.5}),
        (EngineCorrectionConfig, {"cap": 5.0}),
    ],
)
def test_settings_of_disabled_features_are_refused(section: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"off|buffer_tokens above 0"):
        section(**settings)
    OverlongConfig(mask_truncated=True)  # has nothing to do with the buffer
