"""How colours look to people: contrast, and distance as seen with normal sight and with each kind of colour blindness.

Sources: WCAG 2.2 (relative luminance, contrast); Björn Ottosson's OKLab; Machado, Oliveira and Fernandes 2009 (blindness).
"""

from __future__ import annotations

import math
import re

Colour = tuple[float, float, float]
Matrix = tuple[Colour, Colour, Colour]

SIGHTS: dict[str, Matrix] = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}
TO_CONES: Matrix = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
TO_OKLAB: Matrix = (
    (0.2104542553, 0.793617785, -0.0040720468),
    (1.9779984951, -2.428592205, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.808675766),
)


def linear(text: str) -> Colour:
    """``#rrggbb`` or ``rgb(r, g, b)`` as amounts of light, 0 to 1."""
    found = re.findall(r"[0-9a-f]{2}", text[1:]) if text.startswith("#") else re.findall(r"\d+", text)[:3]
    numbers = [int(part, 16 if text.startswith("#") else 10) / 255 for part in found]
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in numbers)
    return red, green, blue


def contrast(one: str, other: str) -> float:
    """1 to 21."""
    light, dark = sorted((_luminance(linear(one)), _luminance(linear(other))), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def distance(one: str, other: str) -> float:
    """The smallest distance in OKLab that the two have for anybody; black and white are 1 apart."""
    return min(math.dist(_seen(linear(one), sight), _seen(linear(other), sight)) for sight in SIGHTS.values())


def _luminance(colour: Colour) -> float:
    return 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]


def _seen(colour: Colour, sight: Matrix) -> Colour:
    red, green, blue = (min(1.0, max(0.0, value)) for value in _times(sight, colour))
    long, middle, short = (max(0.0, value) ** (1 / 3) for value in _times(TO_CONES, (red, green, blue)))
    return _times(TO_OKLAB, (long, middle, short))


def _times(matrix: Matrix, vector: Colour) -> Colour:
    first, second, third = (sum(factor * value for factor, value in zip(row, vector)) for row in matrix)
    return first, second, third
