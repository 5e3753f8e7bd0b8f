def normalise(x):
    """Brings stored values, [N, C, D, H, W], to the range that the network was trained in; a
    channel that was the same everywhere becomes 0.
    """
    mean = torch.tensor(MEANS).view(-1, 1, 1, 1).to(x.device)
    deviation = torch.tensor(DEVIATIONS).view(-1, 1, 1, 1).to(x.device)
    return torch.where(deviation > 0, (x.float() - mean) / deviation, 0.0)
