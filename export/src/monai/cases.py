"""Files of a data set in the layout of the Medical Segmentation Decathlon."""

import json
from pathlib import Path


def validation(dataset_dir, names):
    """Image and label of the cases of these names, as dataset.json lists them."""
    folder = Path(dataset_dir)
    listed = json.loads((folder / "dataset.json").read_text())["training"]
    by_name = {Path(case["image"]).name.removesuffix(".gz").removesuffix(".nii"): case for case in listed}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise ValueError(f"{folder / 'dataset.json'} lists no case named {', '.join(missing)}")
    return [{key: str(folder / by_name[name][key]) for key in ("image", "label")} for name in names]


def images(folder, pattern):
    """Every image of a folder."""
    found = sorted(Path(folder).glob(pattern))
    if not found:
        raise ValueError(f"{folder} holds no {pattern}; give --dataset_dir")
    return [{"image": str(path)} for path in found]
