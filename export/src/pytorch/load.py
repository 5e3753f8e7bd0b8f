def load(weights=None):
    """The trained network, ready to predict; `weights` is a path, WEIGHTS beside this
    file without it.
    """
    from safetensors.torch import load_file

    network = Network()
    network.load_state_dict(load_file(weights or Path(__file__).with_name("WEIGHTS")))
    return network.eval()
