"""Only for imports; see standin."""

from standin import stand_in

stand_in("torchvision", __version__="0")
