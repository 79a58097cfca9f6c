"""``min_pixels`` and ``max_pixels``, the limits of an image's area: the one check of every config and command that takes them."""

from collections.abc import Mapping
from typing import Any

from configs.errors import ConfigError


def check_pixel_limits(low: int | None, high: int | None, whose: str = "") -> None:
    """Refuse limits that no image meets. Otherwise a maximum below the minimum would be ignored.

    Args:
        low, high: ``min_pixels`` and ``max_pixels``; None where there is no limit.
        whose: says where a limit comes from that the user has not given.

    Raises:
        ConfigError: one is below 1, or the maximum is below the minimum.
    """
    for name, value in (("min_pixels", low), ("max_pixels", high)):
        if value is not None and value < 1:
            raise ConfigError(
                f"'{name}' must be at least 1, found {value}: it limits height x width of an image, for example 602112. Set it "
                "in this range, or remove it for the processor's own limit."
            )
    if low is not None and high is not None and high < low:
        raise ConfigError(
            f"'max_pixels' {high} is below 'min_pixels' {low}{whose}, so no image can meet both: raise max_pixels or set a "
            "lower min_pixels."
        )


def given_pixel_limits(low: int | None, high: int | None) -> dict[str, int]:
    """The limits that are given, checked, as arguments of a processor."""
    check_pixel_limits(low, high)
    return {key: value for key, value in (("min_pixels", low), ("max_pixels", high)) if value is not None}


def check_with_processor(given: Mapping[str, Any], own: tuple[int, int] | None) -> None:
    """Refuse a ``max_pixels`` below the processor's own minimum, if no other minimum is given.

    A ``min_pixels`` above the processor's own maximum is no fault: images are then resized to the minimum.

    Args:
        given: of ``min_pixels`` and ``max_pixels`` those that the user gave.
        own: (min, max) of the processor; None if it has a sizing rule of its own.

    Raises:
        ConfigError: see ``check_pixel_limits``.
    """
    check_pixel_limits(given.get("min_pixels"), given.get("max_pixels"))
    if own is not None and "max_pixels" in given and "min_pixels" not in given:
        check_pixel_limits(own[0], given["max_pixels"], " of the processor")
