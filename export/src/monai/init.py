from . import cases, network, report, windows

__all__ = ["cases", "network", "report", "windows"]
