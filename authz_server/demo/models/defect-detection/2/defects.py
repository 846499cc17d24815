"""Finds defects by their distance from the brightness of what is around them."""

import numpy as np

THRESHOLD = 6.0
"""Standard deviations from the background that make a pixel defective."""

MIN_PIXELS = 4
"""Smaller spots are taken for noise."""


TILE = 16
"""Side of the tiles whose medians make the background; over twice a defect's area."""


def find_defects(image):
    """Return the boxes (top, left, bottom, right) and scores of all defects.

    Each pixel is compared with the light around it, so light that falls off across the
    image is no defect. The noise is that of the whole image, robustly.
    """
    pixels = image.astype(np.float64)
    deviation = np.abs(pixels - background(pixels))
    # 1.4826 makes the median absolute deviation a standard deviation for Gaussian
    # noise; half a grey level is what rounding to uint8 alone can do.
    noise = max(1.4826 * float(np.median(deviation)), 0.5)
    return boxes_of(deviation / noise)


def background(pixels):
    """Return the light without the defects: medians of tiles, interpolated linearly.

    As star catalogues do it (Bertin & Arnouts, "SExtractor", 1996): unlike a mean, a
    tile's median does not see a defect that covers less than half of it.
    """
    rows, columns = (_tile_edges(size) for size in pixels.shape)
    medians = np.array(
        [
            [np.median(pixels[top:bottom, left:right]) for left, right in _pairs(columns)]
            for top, bottom in _pairs(rows)
        ]
    )
    by_column = _interpolate(medians, columns)
    return _interpolate(by_column.T, rows).T


def _tile_edges(size):
    return np.linspace(0, size, max(size // TILE, 1) + 1).astype(int)


def _pairs(edges):
    return list(zip(edges[:-1], edges[1:]))


def _interpolate(lines, edges):
    """Return each line of tile medians as a value for each pixel along it."""
    centres = (edges[:-1] + edges[1:] - 1) / 2
    if len(centres) == 1:
        return np.repeat(lines, edges[-1], axis=1)
    # Continued beyond the outermost centres with the slope it has there.
    centres = np.pad(centres, 1, mode="reflect", reflect_type="odd")
    lines = np.pad(lines, ((0, 0), (1, 1)), mode="reflect", reflect_type="odd")
    pixels = np.arange(edges[-1])
    return np.array([np.interp(pixels, centres, line) for line in lines])


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
