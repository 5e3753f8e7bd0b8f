"""Volumes, with their axes where cakes takes them to be."""

import numpy as np
from monai.data import NibabelReader
from monai.utils import ensure_tuple


class Reader(NibabelReader):
    """Reads a file that has neither sform nor qform as RAS+, as it is stored; NiBabel would take
    its first axis to run to the left.
    """

    def read(self, data, **kwargs):
        images = super().read(data, **kwargs)
        for image in ensure_tuple(images):
            header = image.header
            if header["sform_code"] == 0 and header["qform_code"] == 0:
                image.set_sform(np.diag([*header.get_zooms()[:3], 1.0]), code="scanner")
        return images
