def normalise(x):
    """Brings stored values, [N, C, D, H, W], to the range that the network was trained in."""
    mean = torch.tensor(MEANS).view(-1, 1, 1, 1)
    deviation = torch.tensor(DEVIATIONS).view(-1, 1, 1, 1)
    return (x.float() - mean.to(x.device)) / deviation.to(x.device)
