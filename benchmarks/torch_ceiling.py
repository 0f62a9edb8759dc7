"""Contestant: as ceiling.py, the convolutions of one step or a matrix product alone, through PyTorch's kernels.

For a GPU, where one CUDA graph launches them all: the launches of a small batch cost more than its work.
"""

import contestant
import network

try:
    import torch
except ImportError:
    contestant.skip("PyTorch is not installed: pip install -r requirements/bench.txt")
from pytorch import choose_device


class Ceiling:
    def __init__(self, flags):
        self.device = choose_device(flags.device)
        self.dtype, self.width = getattr(torch, flags.precision), flags.width
        torch.set_float32_matmul_precision("high")  # TF32 on a GPU, which TensorFlow takes by default
        torch.backends.cudnn.benchmark = True
        torch.set_num_threads(contestant.cores())
        self.batch(flags.batch_size)
        gpu = self.device.type == "cuda"
        self.about = {
            "device": torch.cuda.get_device_name() if gpu else "CPU",
            "precision": flags.precision,
            "torch": torch.__version__,
        }

    def resident(self, *shape):
        return torch.randn(shape, device=self.device, dtype=self.dtype)

    def batch(self, size):
        operands = []
        for index, (height, before, channels) in enumerate(network.layers(self.width)):
            x, gradient = (
                self.resident(size, count, height, height).contiguous(memory_format=torch.channels_last)
                for count in (before, channels)
            )
            weights = self.resident(channels, before, 3, 3).contiguous(memory_format=torch.channels_last)
            operands.append((x, weights, gradient, index > 0))

        def step():
            for x, weights, gradient, of_input in operands:
                torch.nn.functional.conv2d(x, weights, padding=1)
                settings = [1, 1], [1, 1], [1, 1], False, [0, 0], 1  # stride, padding, dilation, ...
                mask = [of_input, True, False]
                torch.ops.aten.convolution_backward(gradient, x, weights, None, *settings, mask)

        self._prepare(step)

    def matrix(self, size):
        left, right = self.resident(size, size), self.resident(size, size)
        product = torch.empty_like(left)
        self._prepare(lambda: torch.mm(left, right, out=product))

    def _prepare(self, step):
        self.step = step
        self.run(contestant.WARM_UP_STEPS)
        if self.device.type == "cuda":
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            self.step = graph.replay
            self.run(contestant.WARM_UP_STEPS)

    def run(self, steps):
        for _ in range(steps):
            self.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()


if __name__ == "__main__":
    with torch.no_grad():
        ceiling = Ceiling(contestant.parse())
        contestant.serve(ceiling.about, ceiling.run, batch=ceiling.batch, matrix=ceiling.matrix)
