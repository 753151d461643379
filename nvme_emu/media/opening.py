"""A medium from what a user writes."""

from __future__ import annotations

import os

from nvme_emu.core.units import parse_size
from nvme_emu.media.base import Media
from nvme_emu.media.image import ImageMedia
from nvme_emu.media.ram import RamMedia
from nvme_emu.media.sparse import SparseMedia

__all__ = ["RAM_BYTES_MAX", "open_media"]

# A size alone becomes RamMedia up to here. Above, touching 2 MiB for a block that is written adds up.
RAM_BYTES_MAX = 4 << 30


def open_media(
    spec: str | int | os.PathLike[str] | Media,
    *,
    size: str | int | None = None,
    lba_nbytes: int | None = None,
) -> Media:
    """The medium that `spec` names.

    | spec                         | medium                                                          |
    |------------------------------|-----------------------------------------------------------------|
    | 268435456, "256M"            | memory; sparse above 4 GiB                                      |
    | "ram:256M", "sparse:1T"      | memory of that kind                                             |
    | "image:disk.img", a Path     | the image file; created when absent and `size` is given         |
    | a Media                      | itself                                                          |

    Raises ValueError for a spec that is none of these, MediaError where the medium cannot be had.
    """
    if isinstance(spec, Media):
        return spec
    if isinstance(spec, os.PathLike):
        return _image(os.fspath(spec), size, lba_nbytes)
    if isinstance(spec, int):
        nbytes = parse_size(spec)
    else:
        kind, colon, rest = spec.partition(":")
        if colon and kind == "image":
            return _image(rest, size, lba_nbytes)
        if colon and kind == "ram":
            return RamMedia(parse_size(rest))
        if colon and kind == "sparse":
            return SparseMedia(parse_size(rest))
        try:
            nbytes = parse_size(spec)
        except ValueError as error:
            raise ValueError(f"{spec!r} is no medium: a size, ram:SIZE, sparse:SIZE or image:PATH") from error
    return RamMedia(nbytes) if nbytes <= RAM_BYTES_MAX else SparseMedia(nbytes)


def _image(path: str, size: str | int | None, lba_nbytes: int | None) -> ImageMedia:
    return ImageMedia(path, None if size is None else parse_size(size), lba_nbytes=lba_nbytes)
