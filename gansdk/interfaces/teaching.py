"""What a student should learn from: the facts measured of its teacher, and what distiller="auto" makes of them.

Torch-free, so that adapters can choose before anything is computed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from gansdk.text import one_line

AUTO = "auto"
"""As `distiller`: what the generator's family and the measured facts of the teacher say."""

TRUE_DETAIL = 0.6
"""Of a reconstruction's fine detail more than this is true; see docs/decisions.md for what was measured."""

FAR_BELOW_DB = 6.0
"""No teacher that was measured is so far below bicubic enlargement; one with its range mistaken is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherFacts:
    """What a teacher does on a few of the user's images, measured before any training."""

    images: int = 0
    """How many it was looked at on; 0 where there was nothing to look at, and then nothing below is known."""
    psnr: float | None = None
    """Of its images to the truth, in dB, by the protocol of the report; None without pairs."""
    bicubic: float | None = None
    """The same of bicubic enlargement; None where the generator does not enlarge."""
    sharpness: float | None = None
    """Root mean square of its images' gradients, relative to the truth's: below 1 is blurred."""
    true_detail: float | None = None
    """Slope of the truth's fine detail over the teacher's. The mean of all that an input can have come from, which
    minimises squared errors, has 1; what was made up to look sharp lowers it towards 0."""

    @property
    def below_bicubic(self) -> bool:
        """Whether plain enlargement is as near to the truth, or nearer."""
        return self.psnr is not None and self.bicubic is not None and self.psnr <= self.bicubic

    @property
    def range_looks_wrong(self) -> bool:
        """Whether it is so far below bicubic enlargement that its weights or the contract's ranges must be wrong."""
        return self.below_bicubic and (self.bicubic or 0) - (self.psnr or 0) > FAR_BELOW_DB

    @property
    def is_perceptual(self) -> bool:
        """Whether its images are meant to look right rather than to be near the truth. False where nothing tells."""
        return self.below_bicubic or (self.true_detail is not None and self.true_detail < TRUE_DETAIL)

    def to_dict(self) -> dict[str, Any]:
        """JSON: every figure and every verdict by its name."""
        verdicts = ("below_bicubic", "range_looks_wrong", "is_perceptual")
        return {**asdict(self), **{name: getattr(self, name) for name in verdicts}}

    def __str__(self) -> str:
        """One clause: "28.55 dB to the truth (bicubic 29.01), sharpness 0.80, true detail 0.41, on 5 images"."""
        if self.psnr is None or self.sharpness is None or self.true_detail is None:
            return "there is no ground truth to compare it with"
        enlarged = "" if self.bicubic is None else f" (bicubic {self.bicubic:.2f})"
        return (
            f"{self.psnr:.2f} dB to the ground truth{enlarged}, sharpness {self.sharpness:.2f}, true detail "
            f"{self.true_detail:.2f}, on {self.images} images"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Teaching:
    """What distiller="auto" stands for: distillers by their names, the weight of the family's own loss, and why."""

    distillers: tuple[str, ...]
    task_weight: float = 1.0
    """As the option of `gansdk.compress`; 0 leaves the truth out, so that the teacher alone is imitated."""
    reason: str = ""
    """One sentence for the report and the terminal."""

    def __post_init__(self) -> None:
        """Raise TypeError for what could not be opened or shown: a stranger's adapter may have made it."""
        if not (isinstance(self.distillers, tuple) and all(isinstance(name, str) for name in self.distillers)):
            raise TypeError(f"The distillers of a Teaching are {self.distillers!r}; write a tuple of names.")
        if not self.distillers:
            raise TypeError("A Teaching has no distillers; name at least one.")
        object.__setattr__(self, "reason", one_line(str(self.reason), 600))


def by_images(facts: TeacherFacts) -> Teaching:
    """The distiller "pixel", and the truth besides unless the teacher is perceptual.

    For families whose own loss is a distance to the truth, which takes from a perceptual teacher what makes it look
    right.
    """
    if facts.is_perceptual:
        is_so = "far from the ground truth" if facts.range_looks_wrong else "perceptual"
        doubt = " Check the contract's input_range and output_range." if facts.range_looks_wrong else ""
        return Teaching(
            distillers=("pixel",),
            task_weight=0.0,
            reason=f"The teacher is {is_so}: {facts}. The student imitates its images, not the ground truth.{doubt}",
        )
    if facts.psnr is None:
        return Teaching(distillers=("pixel",), reason=f"The student imitates the teacher's images: {facts}.")
    return Teaching(
        distillers=("pixel",),
        reason=(
            f"The teacher is a reconstruction: {facts}. The student learns from the ground truth and from the "
            "teacher's images."
        ),
    )
