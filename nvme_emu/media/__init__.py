"""Media: where the blocks of a namespace are kept."""

from nvme_emu.media.base import Media, MediaError
from nvme_emu.media.ram import RamMedia

__all__ = ["Media", "MediaError", "RamMedia"]
