"""Finds defects by their distance from the brightness of the whole image."""

import numpy as np

THRESHOLD = 6.0
"""Standard deviations from the background that make a pixel defective."""

MIN_PIXELS = 4
"""Smaller spots are taken for noise."""


def find_defects(image):
    """Return the boxes (top, left, bottom, right) and scores of all defects.

    The background is taken to be evenly lit: its level is the median of all pixels, its
    noise their median absolute deviation, both of which a few defects hardly move.
    """
    pixels = image.astype(np.float64)
    deviation = np.abs(pixels - np.median(pixels))
    # 1.4826 makes the median absolute deviation a standard deviation for Gaussian
    # noise; half a grey level is what rounding to uint8 alone can do.
    noise = max(1.4826 * float(np.median(deviation)), 0.5)
    return boxes_of(deviation / noise)


def boxes_of(score):
    """Return a box and the top score for each group of adjacent pixels over THRESHOLD."""
    boxes, scores = [], []
    for rows, columns in groups_of(score > THRESHOLD):
        if len(rows) >= MIN_PIXELS:
            boxes.append(
                (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
            )
            scores.append(score[rows, columns].max())
    return (
        np.array(boxes, dtype=np.int32).reshape(-1, 4),
        np.array(scores, dtype=np.float32),
    )


def groups_of(mask):
    """Yield the (rows, columns) of each 8-connected group of True in `mask`."""
    height, width = mask.shape
    left = mask.copy()
    for start in zip(*np.nonzero(mask)):
        if not left[start]:
            continue
        left[start] = False
        group, waiting = [], [start]
        while waiting:
            row, column = waiting.pop()
            group.append((row, column))
            for r in range(max(row - 1, 0), min(row + 2, height)):
                for c in range(max(column - 1, 0), min(column + 2, width)):
                    if left[r, c]:
                        left[r, c] = False
                        waiting.append((r, c))
        rows, columns = np.array(group).T
        yield rows, columns
