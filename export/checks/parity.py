"""How far exported networks are from what the trainer computed for the same input.

    parity.py [--limit-onnx 1e-4] [--limit-pytorch 1e-5] [--published-form PUBLISHED.npy] [--float64 EXACT.npy]
        INPUT.npy SCORES.npy EXPORT...

INPUT is [N, C, D, H, W], SCORES what `cakes-trainer predict --logits` made of it. An EXPORT that
ends in .onnx goes through ONNX' checker and ONNX Runtime; a folder with a model.py, or a bundle
with scripts/network.py, through PyTorch. Prints the largest difference of each, by itself and
relative to the largest score, and fails if one is above its limit.

PUBLISHED is what `cakes-trainer predict --published-form --threads 1 --logits` made of INPUT. With it
PyTorch is judged by the trainer's published form, which adds in PyTorch's order, and SCORES are only
printed beside it. The limit of PyTorch is for scores up to 1; above, it is relative to the largest.

EXACT is what `cakes-trainer predict --float64 --logits` made of INPUT. With it PyTorch is judged in
float64 too, where a difference is one of the networks and not of the order of sums.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np


def onnx_scores(path, samples):
    import onnx
    import onnxruntime

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = [value.name for value in session.get_inputs()]
    whole = session.run(None, {name: samples})[0]
    # The batch is of any size: one by one must give the same.
    single = np.concatenate([session.run(None, {name: samples[i : i + 1]})[0] for i in range(len(samples))])
    assert np.abs(whole - single).max() <= 1e-4, "a batch and its samples differ"
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert len(properties["cakes.architecture_digest"]) == 64, properties
    return whole


def pytorch_scores(folder, samples, double=False):
    import torch

    torch.set_num_threads(1)
    bundle = folder / "scripts" / "network.py"
    source = bundle if bundle.exists() else folder / "model.py"
    spec = importlib.util.spec_from_file_location("exported", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if bundle.exists():
        network = module.Network()
        network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
        network.eval()
    else:
        network = module.load()
    samples = torch.from_numpy(samples)
    if double:
        network, samples = network.double(), samples.double()
    with torch.inference_mode():
        return network(samples).numpy()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit-onnx", type=float, default=1e-4)
    parser.add_argument("--limit-pytorch", type=float, default=1e-5)
    parser.add_argument("--published-form", metavar="PUBLISHED.npy")
    parser.add_argument("--float64", metavar="EXACT.npy")
    parser.add_argument("input")
    parser.add_argument("scores")
    parser.add_argument("exports", nargs="+", type=Path)
    arguments = parser.parse_args()
    samples, expected = np.load(arguments.input), np.load(arguments.scores)
    published = np.load(arguments.published_form) if arguments.published_form else None
    exact = np.load(arguments.float64) if arguments.float64 else None
    largest = float(np.abs(expected).max())
    failed = False
    for path in arguments.exports:
        is_onnx = path.suffix == ".onnx"
        scores = onnx_scores(str(path), samples) if is_onnx else pytorch_scores(path, samples)
        assert scores.shape == expected.shape, f"{path}: {scores.shape} instead of {expected.shape}"
        difference = float(np.abs(scores - expected).max())
        limit = arguments.limit_onnx if is_onnx else arguments.limit_pytorch * max(1.0, largest)
        line = {"export": str(path), "difference": difference, "relative": difference / largest}
        judged = difference
        if not is_onnx and published is not None:
            judged = line["difference_published_form"] = float(np.abs(scores - published).max())
        if not is_onnx:
            double = pytorch_scores(path, samples, double=True)
            line["pytorch_from_float64"] = float(np.abs(scores - double).max())
            if exact is not None:
                assert exact.dtype == np.float64, "--float64: holds no float64"
                line["trainer_from_float64"] = float(np.abs(expected - exact).max())
                line["difference_float64"] = float(np.abs(double - exact).max())
        # A comparison with NaN is false.
        is_near = judged <= limit and line.get("difference_float64", 0.0) <= limit
        failed |= not is_near
        print(json.dumps(line | {"largest_score": largest, "limit": limit, "ok": is_near}))
    sys.exit(1 if failed else 0)


main()
