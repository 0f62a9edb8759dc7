"""Implementation: the same network, step and average in PyTorch, tuned with its public options.

Images stay on the device as uint8, memory is channels_last, Adam is fused, and one call updates the averages of all
weights. Nothing is read back during a turn. --precision bfloat16 uses autocast, --compile uses torch.compile.
"""

import contextlib
import ctypes
import itertools
import os
import sys

import worker

from training.cli import cores

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # every process compiles, so that the first step is comparable
try:
    import torch
except ImportError:
    sys.exit("PyTorch is not installed: pip install -r requirements/bench.txt")
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

BLOCKS = (96, 192, 192)  # channels of three 3x3 convolutions each; model.py, which has them too, needs TensorFlow
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # options of mallopt


class Classifier(nn.Sequential):
    """The network of model.py, with NCHW shapes in NHWC memory."""

    def __init__(self, width, dropout_rate):
        modules, inputs = [], worker.IMAGE_SHAPE[-1]
        for block, base_channels in enumerate(BLOCKS):
            channels = max(1, round(base_channels * width))
            for _ in range(3):
                modules += [
                    nn.Conv2d(inputs, channels, 3, padding="same", bias=False),
                    nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01),  # TensorFlow's momentum is 1 - 0.01
                    nn.LeakyReLU(0.1, inplace=True),
                ]
                inputs = channels
            if block < len(BLOCKS) - 1:
                modules += [nn.MaxPool2d(2), nn.Dropout(dropout_rate)]
        modules += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, worker.CLASSES, bias=False)]
        super().__init__(*modules, nn.BatchNorm1d(worker.CLASSES, eps=1e-3, momentum=0.01))


def main(flags):
    with contextlib.suppress(AttributeError):  # only glibc has mallopt
        for option, size in ((M_MMAP_THRESHOLD, 2**30), (M_TRIM_THRESHOLD, 2**31 - 1)):
            ctypes.CDLL(None).mallopt(option, size)  # keep freed memory: new pages in every step cost time
    torch.manual_seed(flags.seed)
    torch.set_num_threads(cores())
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, TensorFlow's default
    torch.backends.cudnn.benchmark = True
    gpu = flags.device == "gpu"
    device = torch.device("cuda" if gpu else "cpu")
    images, labels = (torch.from_numpy(array).to(device) for array in worker.draw(flags.train_size))
    model = Classifier(flags.width, flags.dropout).to(device, memory_format=torch.channels_last)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(float(flags.ema_decay[0])))
    forward = model
    if "--compile" in sys.argv:
        # On a GPU, reduce-overhead replays a CUDA graph, since launching kernels costs more than a small batch.
        forward = torch.compile(model, mode="reduce-overhead" if gpu else "default", dynamic=False)
    optimizer = torch.optim.Adam(model.parameters(), flags.learning_rate, (flags.adam_beta1, 0.999), fused=True)
    losses, correct = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)

    def draw_batches():
        """Yields images and labels, in a new order every epoch, without end; NHWC memory is channels_last."""
        while True:
            order = torch.randperm(len(labels), device=device)
            for indices in order[: len(order) // flags.batch_size * flags.batch_size].split(flags.batch_size):
                yield images[indices].permute(0, 3, 1, 2).float() / 127.5 - 1, labels[indices]

    batches = draw_batches()

    def run(steps):
        for x, y in itertools.islice(batches, steps):
            with torch.autocast(device.type, torch.bfloat16, enabled=flags.precision == "bfloat16"):
                logits = forward(x)
            logits = logits.float()
            loss = nn.functional.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.update_parameters(model)
            losses.add_(loss.detach())
            correct.add_((logits.argmax(1) == y).sum())
        if gpu:
            torch.cuda.synchronize()

    name = f"GPU, {torch.cuda.get_device_name()}" if gpu else "CPU"
    about = {"device": name, "precision": flags.precision, "torch": torch.__version__}
    worker.serve(about | {"parameters": sum(parameter.numel() for parameter in model.parameters())}, run)


if __name__ == "__main__":
    main(worker.parse())
