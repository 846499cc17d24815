"""Continues a series by Holt's exponential smoothing with a linear trend.

C. C. Holt, "Forecasting seasonals and trends by exponentially weighted moving averages"
(1957). The two smoothing factors are those of a grid that would have predicted the
series itself best, one step ahead.
"""

import numpy as np

MAX_HORIZON = 1000

LEVEL_FACTORS = np.linspace(0.05, 0.95, 19)
TREND_FACTORS = np.linspace(0.0, 0.95, 20)


def forecast(series, horizon):
    """Return the next `horizon` values as float32.

    Raises:
        ValueError: if the series has fewer than 3 values or one that is not finite, or
            if the horizon is out of range.
    """
    values = np.asarray(series, dtype=np.float64)
    if values.ndim != 1 or values.size < 3:
        raise ValueError("SERIES needs at least 3 values")
    if not np.isfinite(values).all():
        raise ValueError("SERIES holds a value that is not finite")
    if not 1 <= horizon <= MAX_HORIZON:
        raise ValueError(f"HORIZON is not within 1 to {MAX_HORIZON}")
    level, trend = fit(values)
    return (level + trend * np.arange(1, horizon + 1)).astype(np.float32)


def fit(values):
    """Return the last level and trend under the best pair of smoothing factors."""
    # All pairs at once: one pass over the series, arrays instead of nested loops.
    a, b = (grid.ravel() for grid in np.meshgrid(LEVEL_FACTORS, TREND_FACTORS))
    level = np.full(a.size, values[0])
    trend = np.full(a.size, values[1] - values[0])
    squared_error = np.zeros(a.size)
    for value in values[1:]:
        expected = level + trend
        error = value - expected
        squared_error += error * error
        level = expected + a * error
        trend = trend + a * b * error
    best = int(np.argmin(squared_error))
    return level[best], trend[best]
