def normalise(x):
    """Zero mean and unit variance for each channel of each sample, [N, C, D, H, W]."""
    x = x.double()
    mean = x.mean(dim=(-3, -2, -1), keepdim=True)
    deviation = x.std(dim=(-3, -2, -1), correction=0, keepdim=True)
    return torch.where(deviation > 0, (x - mean) / deviation, 0.0).float()
