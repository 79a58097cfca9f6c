"""The calls of the zoom tool as an answer keeps them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from vlm.tools import ZoomResult


class Zoom(BaseModel):
    """One call of the zoom tool.

    Attributes:
        box: (left, top, right, bottom) that was cut, in pixels of the image; None if the call could not be read.
        size: width and height of that image.
        shown: a crop came back.
        error: what the subject was told instead.
    """

    model_config = ConfigDict(extra="forbid")

    box: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None
    img_idx: int | None = None
    label: str = ""
    shown: bool = False
    error: str | None = None

    @property
    def told(self) -> str:
        """The call in a few words, for the page: image, box, and the error if there was one."""
        place = "a call that cannot be read"
        if self.box is not None and self.img_idx is not None:
            left, top, right, bottom = self.box
            place = f"image {self.img_idx + 1}, {right - left} x {bottom - top} pixels at {left}, {top}"
        return place + (f" ({self.error})" if self.error else "")


def record_zoom(result: "ZoomResult", images: Sequence[Image.Image]) -> Zoom:
    """The call behind a result; ``images`` are those that it was cut from."""
    return Zoom(
        box=result.box,
        size=None if result.box is None or result.img_idx is None else images[result.img_idx].size,
        img_idx=result.img_idx,
        label=result.label,
        shown=result.crop is not None,
        error=result.error,
    )
