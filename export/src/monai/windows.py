"""Whole volumes through a network, in the windows that cakes validates with.

Along each axis a window is the whole volume, if that is not much longer than the patch, and else
the patch; windows overlap by half, are spread evenly, and vote with a Gaussian weight.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from monai.inferers import Inferer

OVERLAP = 0.5


class Windows(Inferer):
    def __init__(self, patch, multiple):
        super().__init__()
        self.patch = patch
        self.multiple = multiple

    def __call__(self, inputs, network, *args, **kwargs):
        """Votes of each class, [N, classes, D, H, W], for volumes, [N, C, D, H, W]."""
        volume = inputs.shape[2:]
        window = [self.length(*sizes) for sizes in zip(volume, self.patch)]
        covered = [max(sizes) for sizes in zip(volume, window)]
        missing = [room - size for room, size in zip(covered, volume)]
        inputs = F.pad(inputs, [side for room in reversed(missing) for side in (0, room)])
        weights = gaussian(window).to(inputs.device)
        votes = None
        for start in itertools.product(*map(starts, covered, window)):
            place = tuple(slice(first, first + size) for first, size in zip(start, window))
            scores = network(inputs[(..., *place)]).softmax(dim=1)
            if votes is None:
                votes = torch.zeros(*scores.shape[:2], *covered, device=scores.device)
            votes[(..., *place)] += scores * weights
        return votes[(..., *(slice(size) for size in volume))]

    def length(self, size, patch):
        whole = math.ceil(size / self.multiple) * self.multiple
        return whole if whole <= patch + patch // 2 else patch


def starts(size, window):
    """Where windows start: the last one ends with the volume."""
    last = size - window
    step = max(int(window * (1 - OVERLAP)), 1)
    gaps = math.ceil(last / step)
    return [last * gap // gaps for gap in range(gaps + 1)] if gaps else [0]


def gaussian(window):
    """Weight of each voxel: highest in the middle, at least 0.001."""
    weights = torch.ones(())
    for size in window:
        away = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) / max(size / 8, 0.5)
        weights = weights.unsqueeze(-1) * torch.exp(-0.5 * away**2)
    return weights.clamp(min=1e-3).float()
