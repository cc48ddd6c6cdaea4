"""Pictures and texts as inputs of a model. Axes: B batch, T text tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenreduce.errors import OptionError
from tokenreduce.tasks.batches import Scale

if TYPE_CHECKING:
    from PIL.Image import Image

TEXT_NAMES = ("input_ids", "attention_mask", "token_type_ids")


class Pictures:
    """A checkpoint's own image processor: it resizes, crops and pads as it was saved."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """Pixels (B, 3, H, W), and their mask where the images of the batch differ in size.

        Raises:
            OptionError: the processor does not bring the images to one size.
        """
        try:
            made = self.processor(images=list(images), return_tensors="pt")
        except ValueError as error:
            raise OptionError(
                f"the image processor of this checkpoint cannot make one batch of these pictures ({error}); give "
                "pictures of one size, or save a processor that resizes or pads"
            ) from error
        mask = made.get("pixel_mask")
        masks = {} if mask is None or bool(mask.all()) else {"pixel_mask": mask}
        return {"pixel_values": made["pixel_values"], **masks}

    @property
    def scale(self) -> Scale:
        """How it scales pixels."""
        if not getattr(self.processor, "do_normalize", False):
            return Scale()
        mean, std = self.processor.image_mean, self.processor.image_std
        return Scale(_three(mean), _three(std))


class Words:
    """A tokenizer that gives texts of one length, so that all batches have one shape.

    Args:
        tokenizer: of the checkpoint.
        texts: all that will come; the longest of them, cut at ``limit``, gives the length. Where there are none, each
            call pads to its own longest.
        limit: the most tokens that the model takes.
        always: pad to the limit whatever comes.
        names: what the model takes.
    """

    def __init__(
        self,
        tokenizer: Any,
        texts: Sequence[str],
        limit: int,
        always: bool = False,
        names: Sequence[str] = TEXT_NAMES,
    ) -> None:
        self.tokenizer, self.limit, self.names = tokenizer, limit, names
        self.length = limit if always else self._longest(texts)

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids (B, T), and their mask if the model takes one."""
        length = self.length or self._longest(texts)
        made = self.tokenizer(
            list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        return {name: made[name] for name in self.names if name in made}

    def parts(self, texts: Sequence[str], size: int = 256) -> Iterator[dict[str, Tensor]]:
        """The same in parts of ``size`` texts."""
        for first in range(0, len(texts), size):
            yield self(texts[first : first + size])

    def _longest(self, texts: Sequence[str]) -> int:
        """Tokens of the longest text, at most the limit; 0 without texts."""
        if not texts:
            return 0
        found = self.tokenizer(list(dict.fromkeys(texts)), max_length=self.limit, truncation=True)["input_ids"]
        return max(len(ids) for ids in found)


def _three(value: Any) -> tuple[float, ...]:
    values = [float(v) for v in value] if isinstance(value, (list, tuple)) else [float(value)]
    return tuple(values * 3 if len(values) == 1 else values)
