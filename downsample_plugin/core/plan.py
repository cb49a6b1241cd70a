# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be done to every particle: the numbers a user gives, and those that follow from them.

This is the one place where boxes and pixel sizes are worked out; ``checks`` says what is wrong with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..errors import PlanError
from .geometry import nearest_even_box


class Recenter(str, Enum):
    """What is done with the aligned shifts."""

    NONE = "none"
    WHOLE_PIXELS = "whole pixels"
    EXACT = "exact"


class FilterShape(str, Enum):
    """How the edge of a filter is drawn."""

    BUTTERWORTH = "Butterworth"
    RAISED_COSINE = "raised cosine"


@dataclass(frozen=True)
class DownsamplePlan:
    """A request and its consequences, for particles of one box and pixel size.

    Attributes
    ----------
    box_in, apix_in : box (px, square) and pixel size (Å/px) of the particles
    crop_size : box (px) to crop or pad to before the Fourier crop; None keeps the box
    target_pixel_size : desired pixel size (Å/px), reached as nearly as an even box allows
    fourier_crop_size : box (px) of the output; at most one of these two
    recenter : what to do with each particle's shift
    lowpass_resolution, highpass_resolution : corners (Å) of the filters; None for no filter
    filter_shape : shape of both filters' edges
    filter_order : order of the Butterworth edge
    filter_width : full width of the raised-cosine edge, in Fourier shells of the output box
    normalize : whether to normalise the background
    background_radius : radius (output px) beyond which is background; None for half the output box
    float16 : whether to store 16-bit floating point numbers
    """

    box_in: int
    apix_in: float
    crop_size: int | None = None
    target_pixel_size: float | None = None
    fourier_crop_size: int | None = None
    recenter: Recenter = Recenter.NONE
    lowpass_resolution: float | None = None
    highpass_resolution: float | None = None
    filter_shape: FilterShape = FilterShape.BUTTERWORTH
    filter_order: int = 8
    filter_width: float = 2.0
    normalize: bool = False
    background_radius: float | None = None
    float16: bool = False

    # ---- what follows -----------------------------------------------------------------------------

    @property
    def box_crop(self) -> int:
        """Box (px of the input) after cropping or padding."""
        return self.box_in if self.crop_size is None else self.crop_size

    @property
    def box_out(self) -> int:
        """Box (px) of the output."""
        if self.fourier_crop_size is not None:
            return self.fourier_crop_size
        if self.target_pixel_size is not None:
            return nearest_even_box(self.box_crop, self.apix_in, self.target_pixel_size)
        return self.box_crop

    @property
    def apix_out(self) -> float:
        """True pixel size (Å/px) of the output: exact in double precision, not the desired one."""
        return self.apix_in * self.box_crop / self.box_out

    @property
    def scale(self) -> float:
        """q: output pixels per input pixel; shifts and coordinates are multiplied by it."""
        return self.box_out / self.box_crop

    @property
    def nyquist_resolution(self) -> float:
        """Finest resolution (Å) that the output can hold."""
        return 2 * self.apix_out

    @property
    def filtered(self) -> bool:
        """Whether any filter is asked for."""
        return self.lowpass_resolution is not None or self.highpass_resolution is not None

    @property
    def background_radius_px(self) -> float:
        """Radius (output px) beyond which pixels are background."""
        return self.box_out / 2 if self.background_radius is None else self.background_radius

    def summary(self) -> str:
        """One line for logs and summaries: boxes and pixel sizes, and after a semicolon what else is done."""
        boxes, sizes = [f"{self.box_in}"], [f"{self.apix_in:.5g}"]
        if self.box_crop != self.box_in:
            boxes.append(f"{self.box_crop}")
        if self.box_out != self.box_crop:
            boxes.append(f"{self.box_out}")
            sizes.append(f"{self.apix_out:.5g}")
        line = (
            f"box {' → '.join(boxes)} px, pixel size {' → '.join(sizes)} Å/px, Nyquist {self.nyquist_resolution:.4g} Å"
        )
        besides = self._done_besides()
        return f"{line}; {', '.join(besides)}" if besides else line

    def _done_besides(self) -> list[str]:
        """What is done to the images besides another box and pixel size, in words."""
        done = [] if self.recenter is Recenter.NONE else [f"recentred ({self.recenter.value})"]
        if self.box_crop != self.box_in:
            done.append("cropped" if self.box_crop < self.box_in else "padded")
        if self.lowpass_resolution is not None:
            done.append(f"low-pass {self.lowpass_resolution:g} Å")
        if self.highpass_resolution is not None:
            done.append(f"high-pass {self.highpass_resolution:g} Å")
        return done + ["background normalised"] * self.normalize + ["16 bits"] * self.float16

    # ---- JSON ----------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        return {
            key: value.value if isinstance(value, Enum) else value for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DownsamplePlan:
        """The plan that ``to_dict`` wrote; PlanError where it is something else."""
        try:
            plan = cls(
                **{
                    **values,
                    "recenter": Recenter(values["recenter"]),
                    "filter_shape": FilterShape(values["filter_shape"]),
                }
            )
            for field in dataclasses.fields(cls):
                value = getattr(plan, field.name)
                if type(value) not in _TYPES.get(str(field.type), (type(value),)):
                    raise TypeError(f"{field.name} is {value!r}, expected {field.type}")
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError([f"plan: it cannot be read ({error}); write the job again"]) from error
        return plan


# What JSON may give for a field of the plan, by its annotation
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "int | None": (int, type(None)),
    "float | None": (int, float, type(None)),
}
