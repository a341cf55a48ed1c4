"""MobileFaceNet, in insightface's widened form (names mbf, mbf_large).

Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices",
CCBR 2018, https://arxiv.org/abs/1804.07573. state_dict keys and shapes are those of arcface_torch.
"""

from torch import Tensor, nn

from .backbone import Backbone, check_counts, kaiming_init
from .batch_norm import in_sequence
from .layers import Conv2d, PReLU


class Layers(nn.Module):
    """A sequence with the name `layers`, which is in the published state_dict keys at every level."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        return in_sequence(self.layers, x, shortcut)


class Residual(Layers):
    """The sequence, with a shortcut around it."""

    def forward(self, x: Tensor) -> Tensor:
        *layers, last = self.layers
        return last(in_sequence(layers, x), shortcut=x)


def linear_convolution(
    channels_in: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> Layers:
    """Convolution and BatchNorm. At stride 1 a kernel of 3 keeps the resolution, one of 7 makes 1 of 7."""
    padding = 1 if kernel == 3 else 0
    return Layers(
        Conv2d(channels_in, channels, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    )


def convolution(channels_in: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Layers:
    """Convolution, BatchNorm and PReLU."""
    return Layers(*linear_convolution(channels_in, channels, kernel, stride, groups).layers, PReLU(channels))


def bottleneck(
    channels_in: int, channels: int, width: int, stride: int = 1, block: type[Layers] = Layers
) -> Layers:
    """Inverted bottleneck: to `width` channels, depthwise 3 x 3 convolution, back without activation."""
    return block(
        convolution(channels_in, width),
        convolution(width, width, kernel=3, stride=stride, groups=width),
        linear_convolution(width, channels),
    )


def residual_stage(channels: int, width: int, num_blocks: int) -> Layers:
    return Layers(*(bottleneck(channels, channels, width, block=Residual) for _ in range(num_blocks)))


class MobileFaceNet(Backbone):
    """Inverted bottlenecks at 56, 28, 14 and 7 pixels, then a 7 x 7 depthwise convolution instead of a mean.

    Args:
        blocks: residual blocks at each resolution. A first number of 1 means a grouped convolution instead.
        scale: the stages have 64 · scale (56 and 28 pixels) and 128 · scale channels (14 and 7 pixels).
        num_features: numbers in an embedding.
        dropout: share of the 512 pooled numbers that training sets to 0 before the linear layer.
    """

    embedding_weight = "features.layers.2.weight"
    small = {"blocks": (1, 1, 2, 1), "scale": 1}

    def __init__(
        self,
        blocks: tuple[int, int, int, int] = (1, 4, 6, 2),
        scale: int = 2,
        *,
        num_features: int = 512,
        dropout: float = 0.0,
        **options,
    ):
        super().__init__(**options)
        check_counts("blocks", blocks, length=4)
        check_counts("scale", [scale], length=1)
        narrow, wide = 64 * scale, 128 * scale
        self.layers = nn.ModuleList(
            [
                convolution(3, narrow, kernel=3, stride=2),
                convolution(narrow, narrow, kernel=3, groups=64)
                if blocks[0] == 1
                else residual_stage(narrow, 128, blocks[0]),
                bottleneck(narrow, narrow, 128, stride=2),
                residual_stage(narrow, 128, blocks[1]),
                bottleneck(narrow, wide, 256, stride=2),
                residual_stage(wide, 256, blocks[2]),
                bottleneck(wide, wide, 512, stride=2),
                residual_stage(wide, 256, blocks[3]),
            ]
        )
        self.conv_sep = convolution(wide, 512)
        self.features = Layers(
            linear_convolution(512, 512, kernel=7, groups=512),
            nn.Sequential(nn.Flatten(), nn.Dropout(dropout)),
            nn.Linear(512, num_features, bias=False),
            nn.BatchNorm1d(num_features),
        )
        kaiming_init(self)

    def trunk(self, images: Tensor) -> Tensor:
        return self.conv_sep(self.run_blocks(self.layers, images))  # (N, 512, 7, 7)

    def tail(self, maps: Tensor) -> Tensor:
        return self.features(maps)
