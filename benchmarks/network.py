"""The network's shape and its work in numbers, without TensorFlow: for PyTorch's processes and for the tables."""

IMAGE = (32, 3)  # height and width, channels
BLOCKS = (96, 192, 192)  # channels of three 3x3 convolutions each, as in model.py; a max pool between blocks
CLASSES = 10


def channels(width):
    """The channels of each block at a width, as model.classifier takes them."""
    return [max(1, round(block * width)) for block in BLOCKS]


def layers(width):
    """(height, input channels, output channels) of each convolution, first to last."""
    height, before = IMAGE
    for after in channels(width):
        for _ in range(3):
            yield height, before, after
            before = after
        height //= 2


def step_flops(width):
    """Floating-point operations of the convolutions of one training step, per image.

    Two for each multiply-add of the forward pass, as many for the gradient of the weights, and as many again for that
    of the input, which the first layer does without.
    """
    passes = [2] + [3] * 8
    work = (2 * 9 * height**2 * before * after for height, before, after in layers(width))
    return sum(count * flops for count, flops in zip(passes, work, strict=True))
