"""The colours of heat maps: matplotlib's colour maps as CSS classes, for light and dark pages.

`s0` to `s20` go from the worst score to the best, `d0` to `d20` from worse than the reference
over equal (`d10`) to better. One hue, or red and blue, whose lightness tells the same: readable
without colour vision. Towards the page's own colour means little in both themes.
"""

from collections.abc import Iterator

import matplotlib
from matplotlib.colors import to_hex

NUM_STEPS = 21
MIDDLE = NUM_STEPS // 2
INKS = ("#000000", "#ffffff")  # one of the two has a contrast of 4.5 to any colour
# (class, light map, its part, dark map, its part); ends that are nearly black or white are left out
SCALES = (
    ("s", "Blues", (0.04, 0.86), "Blues_r", (0.02, 0.72)),
    ("d", "RdBu", (0.12, 0.88), "berlin_r", (0.12, 0.88)),
)
EQUAL = {False: "#f7f7f7", True: "#121212"}  # no hue at all: a dark map's middle has one


def step(share: float) -> int:
    """The step for a share from 0 to 1."""
    assert 0 <= share <= 1
    return round(share * (NUM_STEPS - 1))


def diverging_step(share: float) -> int:
    """The step for a share from -1 to 1; only 0 itself, or what is next to it, is in the middle."""
    return step((share + 1) / 2)


def css(is_dark: bool) -> str:
    """Rules for all classes in one theme."""
    return "\n".join(_rules(is_dark))


def _rules(is_dark: bool) -> Iterator[str]:
    for name, light, light_part, dark, dark_part in SCALES:
        colours, (low, high) = (dark, dark_part) if is_dark else (light, light_part)
        for index in range(NUM_STEPS):
            share = low + (high - low) * index / (NUM_STEPS - 1)
            is_equal = name == "d" and index == MIDDLE
            background = (
                EQUAL[is_dark] if is_equal else to_hex(matplotlib.colormaps[colours](share))
            )
            yield f".{name}{index}{{background:{background};color:{ink_on(background)}}}"


def ink_on(background: str) -> str:
    """The ink that is easier to read."""
    return max(INKS, key=lambda ink: contrast(ink, background))


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours, 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """WCAG's relative luminance of `#rrggbb`."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
