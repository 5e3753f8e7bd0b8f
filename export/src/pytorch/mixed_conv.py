class MixedConv3d(nn.Module):
    """Convolutions that read the same input, one for each kernel; their outputs are joined
    along channels. `channels` says how many output channels each kernel computes.
    """

    def __init__(self, in_channels, channels, stride=1, bias=False):
        super().__init__()
        for kernel, out_channels in channels.items():
            size = tuple(int(taps) for taps in kernel.split("x"))
            padding = tuple(taps // 2 for taps in size)
            self.add_module(kernel, nn.Conv3d(in_channels, out_channels, size, stride, padding, bias=bias))

    def forward(self, x):
        return torch.cat([convolution(x) for convolution in self.children()], dim=1)
