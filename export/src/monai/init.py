from . import cases, network, report, volumes, windows

__all__ = ["cases", "network", "report", "volumes", "windows"]
