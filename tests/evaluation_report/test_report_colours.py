"""Colours of a report can be read by everyone, in light and in dark."""

import re
from importlib.resources import files

import pytest
from intarsia_client.report import colours

LIGHT, DARK = False, True
STEP = re.compile(r"\.([sd])(\d+)\{background:(#[0-9a-f]{6});color:(#[0-9a-f]{6})\}")


def steps(is_dark: bool, family: str) -> list[tuple[str, str]]:
    """(background, ink) of every step, in order."""
    found = STEP.findall(colours.css(is_dark))
    assert len(found) == 2 * colours.NUM_STEPS
    numbered = {int(n): (paper, ink) for name, n, paper, ink in found if name == family}
    return [numbered[index] for index in range(colours.NUM_STEPS)]


def variables(is_dark: bool) -> dict[str, str]:
    css = (files("intarsia_client.report") / "templates" / "report.css").read_text()
    light, dark = re.findall(r":root\{([^}]*)\}", css)
    return dict(re.findall(r"--([a-z-]+):(#[0-9a-f]+)", dark if is_dark else light))


def full(colour: str) -> str:
    return "#" + "".join(2 * char for char in colour[1:]) if len(colour) == 4 else colour


@pytest.mark.parametrize("family", ["s", "d"])
@pytest.mark.parametrize("is_dark", [LIGHT, DARK], ids=["light", "dark"])
def test_numbers_in_cells_can_be_read(is_dark: bool, family: str) -> None:
    assert min(colours.contrast(*step) for step in steps(is_dark, family)) >= 4.5


@pytest.mark.parametrize("is_dark", [LIGHT, DARK], ids=["light", "dark"])
def test_lightness_alone_tells_the_scale(is_dark: bool) -> None:
    scores = [colours.luminance(paper) for paper, _ in steps(is_dark, "s")]
    deltas = [colours.luminance(paper) for paper, _ in steps(is_dark, "d")]
    assert scores == sorted(scores, reverse=not is_dark)
    down, up = deltas[: colours.MIDDLE + 1], deltas[colours.MIDDLE :]
    assert down == sorted(down, reverse=is_dark)
    assert up == sorted(up, reverse=not is_dark)


@pytest.mark.parametrize("is_dark", [LIGHT, DARK], ids=["light", "dark"])
def test_better_is_blue_and_worse_is_red(is_dark: bool) -> None:
    found = steps(is_dark, "d")
    for index, (red, blue) in enumerate((int(p[1:3], 16), int(p[5:], 16)) for p, _ in found):
        if abs(index - colours.MIDDLE) > 2:
            assert (blue > red) == (index > colours.MIDDLE)
    equal, _ = found[colours.MIDDLE]
    assert equal[1:3] == equal[3:5] == equal[5:]


@pytest.mark.parametrize("is_dark", [LIGHT, DARK], ids=["light", "dark"])
def test_texts_and_bars_stand_out_from_the_page(is_dark: bool) -> None:
    told = {name: full(colour) for name, colour in variables(is_dark).items()}
    for paper in (told["paper"], told["card"]):
        for ink in ("ink", "faint", "gain", "harm", "link", "star"):
            assert colours.contrast(told[ink], paper) >= 4.5, (ink, paper)
        assert colours.contrast(told["bar"], paper) >= 3
        assert colours.contrast(told["bar"], told["bar-reference"]) > 1.3


@pytest.mark.parametrize(
    ("share", "step"), [(0.0, 0), (0.5, 10), (1.0, 20), (0.02, 0), (0.03, 1), (0.98, 20)]
)
def test_shares_are_steps(share: float, step: int) -> None:
    assert colours.step(share) == step
    assert colours.diverging_step(2 * share - 1) == step


def test_known_contrasts() -> None:
    assert colours.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert colours.contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)
