"""What makes one run practical: options, device, files, checkpoints, the loop around the graph."""

import sys

if sys.platform == "win32":  # before modules that Windows does not have are imported
    sys.exit("this program needs Linux, macOS or, on Windows, WSL: run the same command there")
