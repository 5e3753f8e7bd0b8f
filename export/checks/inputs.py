"""Real samples as a network reads them.

    inputs.py CHECKPOINT DATA OUT.npy [COUNT]

DATA is a folder in the layout of the Medical Segmentation Decathlon, of whose validation cases the
first ones are taken (needs nibabel), or an .npz archive of samples, of which what is larger than the
patch is cut from the middle, as validation cuts; frames are not resized. Writes [N, C, D, H, W].
"""

import json
import sys
from pathlib import Path

import numpy as np


def volumes(folder, cases, multiple):
    import nibabel

    images = []
    for case in cases:
        image = nibabel.as_closest_canonical(nibabel.load(folder / "imagesTr" / f"{case}.nii.gz"))
        image = np.asarray(image.dataobj, dtype=np.float64)
        images.append((image - image.mean()) / image.std())
    # Equal extents, so that they are one batch.
    extent = [min(image.shape[axis] for image in images) // multiple * multiple for axis in range(3)]
    return np.stack([image[tuple(slice(size) for size in extent)] for image in images])[:, None]


def samples(path, note, count):
    arrays = np.load(path)
    key = next(key for key in ("val_images", "frames") if key in arrays)
    chosen = arrays[key][:count].astype(np.float64)
    depth, height, width = note["patch"]
    if note["kind"] == "clip":
        frames = (np.arange(depth) + 0.5) * chosen.shape[1] // depth
        chosen = normalised(middle(chosen[:, frames.astype(int)], (depth, height, width)), note)
    else:
        chosen = middle(normalised(chosen, note), (depth, height, width))
    return chosen[:, None]


def middle(samples, extent):
    for axis, size in enumerate(extent, start=1):
        start = max(samples.shape[axis] - size, 0) // 2
        samples = samples.take(range(start, min(start + size, samples.shape[axis])), axis)
    return samples


def normalised(samples, note):
    fixed = note["normalisation"]
    if fixed == "per_sample":
        axes = (1, 2, 3)
        return (samples - samples.mean(axes, keepdims=True)) / samples.std(axes, keepdims=True)
    return (samples - fixed["fixed"]["mean"][0]) / fixed["fixed"]["deviation"][0]


def main(checkpoint, data, out, count="4"):
    note = json.loads((Path(checkpoint) / "manifest.json").read_text())["input"]
    data = Path(data)
    if data.is_dir():
        found = volumes(data, note["validation_cases"][: int(count)], 4)
    else:
        found = samples(data, note, int(count))
    np.save(out, np.ascontiguousarray(found.astype("<f4")))
    print(found.shape)


main(*sys.argv[1:])
