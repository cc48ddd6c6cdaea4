"""Pictures and texts as inputs of a model. Axes: B batch, T text tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenreduce.errors import OptionError
from tokenreduce.tasks import Record
from tokenreduce.tasks.batches import Scale

if TYPE_CHECKING:
    from PIL.Image import Image

TEXT_NAMES = ("input_ids", "attention_mask", "token_type_ids")


class Pictures:
    """A checkpoint's own image processor: it resizes, crops and pads as it was saved.

    Args:
        processor: the library's.
        masks: whether the model takes a mask of padding.
    """

    def __init__(self, processor: Any, masks: bool = True) -> None:
        self.processor, self.masks = processor, masks

    def __call__(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """Pixels (B, 3, H, W), and their mask where the images of the batch differ in size.

        Raises:
            OptionError: the processor does not bring the images to one size.
        """
        try:
            made = self.processor(images=list(images), return_tensors="pt")
        except Exception as error:  # processors raise what they like at sizes that do not suit them
            if len(images) == 1:
                size = f"{images[0].width}x{images[0].height}"
                raise OptionError(
                    f"the image processor of this checkpoint cannot take a picture of {size} pixels ({error}); give "
                    "another picture"
                ) from error
            raise OptionError(
                f"the image processor of this checkpoint cannot make one batch of these pictures ({error}); give "
                "pictures of one size, or save a processor that resizes or pads"
            ) from error
        mask = made.get("pixel_mask")
        masks = {} if mask is None or bool(mask.all()) or not self.masks else {"pixel_mask": mask}
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
        self.texts = list(dict.fromkeys(texts))
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

    def remarks(self, records: Sequence[Record], alike: bool = False) -> Iterator[str]:
        """What becomes of the texts: how many are cut, hold unknown words, or (if asked) are alike to the model."""
        if not self.texts:
            return
        whole: list[list[int]] = self.tokenizer(self.texts, max_length=self.limit + 1, truncation=True)["input_ids"]
        count = len(self.texts)
        cut = sum(len(ids) > self.limit for ids in whole)
        if cut:
            yield f"{cut} of {count} texts are longer than the {self.limit} tokens that the model takes, and are cut"
        unknown = self.tokenizer.unk_token_id
        if unknown not in (None, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id):
            with_unknown = sum(unknown in ids for ids in whole)
            if with_unknown:
                yield f"{with_unknown} of {count} texts have words that the tokenizer does not know"
        if alike:
            seen = self.tokenizer(self.texts, max_length=self.limit, truncation=True)["input_ids"]
            same = count - len({tuple(ids) for ids in seen})
            if same:
                yield f"{same} of {count} texts are to the model as another one is, and of equal scores the first wins"

    def _longest(self, texts: Sequence[str]) -> int:
        """Tokens of the longest text, at most the limit; 0 without texts."""
        if not texts:
            return 0
        found = self.tokenizer(list(dict.fromkeys(texts)), max_length=self.limit, truncation=True)["input_ids"]
        return max(len(ids) for ids in found)


def _three(value: Any) -> tuple[float, ...]:
    values = [float(v) for v in value] if isinstance(value, (list, tuple)) else [float(value)]
    return tuple(values * 3 if len(values) == 1 else values)
