"""A medium from what a user writes."""

from __future__ import annotations

import os

from nvme_emu.core.units import parse_size
from nvme_emu.media.base import Media
from nvme_emu.media.image import ImageMedia
from nvme_emu.media.ram import RamMedia
from nvme_emu.media.sparse import SparseMedia

__all__ = ["RAM_BYTES_MAX", "open_media"]

# Memory without a name becomes RamMedia up to here. Above, 2 MiB for each block that is written add up.
RAM_BYTES_MAX = 4 << 30


def open_media(
    spec: str | os.PathLike[str] | Media | None = None,
    nbytes: int | None = None,
    *,
    lba_size: int | None = None,
) -> Media:
    """The medium that `spec` names.

    | spec                        | medium                                                             |
    |-----------------------------|--------------------------------------------------------------------|
    | None                        | memory of `nbytes`; sparse above 4 GiB                             |
    | "ram:256M", "sparse:1T"     | memory of that kind and size                                       |
    | a path, "image:PATH"        | the image file; created when absent and `nbytes` is given          |
    | a Media                     | itself                                                             |

    `nbytes` and `lba_size` are as for `ImageMedia`. Raises ValueError for a size that is none, MediaError
    where the medium cannot be had.
    """
    if isinstance(spec, Media):
        return spec
    if spec is None:
        if nbytes is None:
            raise ValueError("a medium in memory needs a size")
        return RamMedia(nbytes) if nbytes <= RAM_BYTES_MAX else SparseMedia(nbytes)
    if isinstance(spec, str):
        kind, _, rest = spec.partition(":")
        if kind == "ram":
            return RamMedia(parse_size(rest))
        if kind == "sparse":
            return SparseMedia(parse_size(rest))
        spec = rest if kind == "image" and rest else spec
    return ImageMedia(spec, nbytes, lba_size=lba_size)
