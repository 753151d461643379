"""Media: where the blocks of a namespace are kept."""

from nvme_emu.media.base import Media, MediaError
from nvme_emu.media.image import ImageMedia
from nvme_emu.media.opening import open_media
from nvme_emu.media.pmr import PmrFile, pmr_path
from nvme_emu.media.ram import RamMedia
from nvme_emu.media.snapshot import CopiedData, CopiedRam, CopiedSparse
from nvme_emu.media.sparse import SparseMedia

__all__ = [
    "CopiedData",
    "CopiedRam",
    "CopiedSparse",
    "ImageMedia",
    "Media",
    "MediaError",
    "PmrFile",
    "RamMedia",
    "SparseMedia",
    "open_media",
    "pmr_path",
]
