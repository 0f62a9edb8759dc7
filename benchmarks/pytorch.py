"""Contestant: the same network, step and average in PyTorch, tuned as its users can tune it.

Images resident as uint8 and gathered on the device, channels_last, fused Adam, averages of all weights in one call,
gradients set to None, no read-back, memory that stays with the process. --precision bfloat16 runs under autocast,
--compile through torch.compile.
"""

import contextlib
import ctypes
import os

import contestant
import network

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # what is compiled is compiled anew, in every process
try:
    import torch
except ImportError:
    contestant.skip("PyTorch is not installed: pip install -r requirements/bench.txt")
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Classifier(nn.Sequential):
    """The network of model.py; NCHW shapes in NHWC memory."""

    def __init__(self, width, dropout_rate):
        modules, before = [], 3
        for block, channels in enumerate(network.channels(width)):
            for _ in range(3):
                modules += [
                    nn.Conv2d(before, channels, 3, padding="same", bias=False),
                    nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01),  # 1 - momentum, in TensorFlow's terms
                    nn.LeakyReLU(0.1, inplace=True),
                ]
                before = channels
            if block < len(network.BLOCKS) - 1:
                modules += [nn.MaxPool2d(2), nn.Dropout(dropout_rate)]
        modules += [
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(before, network.CLASSES, bias=False),
            nn.BatchNorm1d(network.CLASSES, eps=1e-3, momentum=0.01),
        ]
        super().__init__(*modules)
        for module in self:
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)


def keep_memory():
    """Has glibc keep the memory that a step frees, instead of asking the kernel for fresh pages in the next."""
    m_trim_threshold, m_mmap_threshold = -1, -3
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_threshold, 2**30)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def choose_device(device):
    if device == "gpu" and not torch.cuda.is_available():
        contestant.skip("PyTorch sees no GPU")
    return torch.device("cuda" if torch.cuda.is_available() and device != "cpu" else "cpu")


class PyTorch:
    def __init__(self, flags):
        keep_memory()
        torch.manual_seed(flags.seed)
        torch.set_num_threads(contestant.cores())
        torch.set_float32_matmul_precision("high")  # TF32 on a GPU, which TensorFlow takes by default
        torch.backends.cudnn.benchmark = True
        self.device = choose_device(flags.device)
        self.batch_size = flags.batch_size
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=flags.precision == "bfloat16")
        images, labels = contestant.draw(flags.train_size, 0)
        self.images, self.labels = (torch.from_numpy(array).to(self.device) for array in (images, labels))
        self.model = Classifier(flags.width, flags.dropout).to(self.device, memory_format=torch.channels_last)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(float(flags.ema_decay[0])))
        self.forward = self.model
        if flags.compile:
            # On a GPU reduce-overhead replays a CUDA graph: the launches of a small batch cost more than its work.
            mode = "reduce-overhead" if self.device.type == "cuda" else "default"
            self.forward = torch.compile(self.model, mode=mode, dynamic=False)
        betas = (flags.adam_beta1, 0.999)
        self.optimizer = torch.optim.Adam(self.model.parameters(), flags.learning_rate, betas, fused=True)
        self.losses = torch.zeros((), device=self.device)
        self.correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.batches = self._batches()
        self.about = {
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU",
            "precision": flags.precision,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "torch": torch.__version__,
        }

    def _batches(self):
        """Images and labels in a new order each epoch, for ever; the images' memory is NHWC, which is channels_last."""
        while True:
            order = torch.randperm(len(self.labels), device=self.device)
            for indices in order[: len(order) // self.batch_size * self.batch_size].split(self.batch_size):
                images = self.images[indices].permute(0, 3, 1, 2)
                yield images.float() / 127.5 - 1, self.labels[indices]

    def step(self):
        x, labels = next(self.batches)
        with self.autocast:
            logits = self.forward(x)
        logits = logits.float()
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(self.model)
        self.losses += loss.detach()
        self.correct += (logits.argmax(1) == labels).sum()

    def run(self, steps):
        for _ in range(steps):
            self.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def batch(self, size):
        """Goes on with batches of another size, warm; the dict for the answer."""
        self.batch_size, self.batches = size, self._batches()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        first = contestant.timed(self.run, 1)
        self.run(contestant.WARM_UP_STEPS - 1)
        return {"first_step_seconds": first}

    def device_bytes(self):
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None


if __name__ == "__main__":
    pytorch = PyTorch(contestant.parse("compile"))
    contestant.serve(pytorch.about, pytorch.run, pytorch.device_bytes, batch=pytorch.batch)
