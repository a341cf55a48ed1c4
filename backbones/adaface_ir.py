"""The IR and IR-SE networks of AdaFace (names ir_18 to ir_200, ir_se_50 to ir_se_200).

Kim et al., "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022, https://arxiv.org/abs/2204.00964;
squeeze and excitation: Hu et al., CVPR 2018, https://arxiv.org/abs/1709.01507. state_dict keys and shapes are
AdaFace's. The published networks return the unit embedding and its norm; here, as for every backbone, the
output is their product. AdaFace's recipe trains with `dropout=0.4`.
"""

from torch import Tensor, nn

from .backbone import Backbone, check_counts, kaiming_init
from .batch_norm import batch_norm_and_input, in_sequence
from .layers import PReLU


class SqueezeExcitation(nn.Module):
    """Scales each channel by a number in (0, 1), which follows from the means of all channels."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean(dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
        return x * self.fc2(self.fc1(means).relu()).sigmoid()


class Block(nn.Module):
    """IResNet's block or a bottleneck. Its shortcut has weights only where the number of channels changes."""

    def __init__(self, channels_in: int, channels: int, stride: int, bottleneck: bool, squeeze: bool):
        super().__init__()
        if channels_in != channels:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        else:
            self.shortcut_layer = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()
        width = channels // 4 if bottleneck else channels
        layers = [
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, width, 1, bias=False)
            if bottleneck
            else nn.Conv2d(channels_in, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            PReLU(width),
        ]
        if bottleneck:
            layers += [
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                PReLU(width),
                nn.Conv2d(width, channels, 1, stride, bias=False),
            ]
        else:
            layers += [nn.Conv2d(width, channels, 3, stride, padding=1, bias=False)]
        self.res_layer = nn.Sequential(*layers, nn.BatchNorm2d(channels))
        if squeeze:
            self.res_layer.add_module("se_block", SqueezeExcitation(channels))

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.res_layer
        normalised, x = batch_norm_and_input(first, x)
        return in_sequence(others, normalised, shortcut=in_sequence([self.shortcut_layer], x))


class AdaFaceIR(Backbone):
    """Four stages, each halving the resolution, then a linear layer over the whole 7 x 7 map.

    Args:
        blocks: blocks in each stage, each at least 1.
        bottleneck: 1 x 1, 3 x 3, 1 x 1 convolutions and stages of 256 to 2048 channels, instead of two 3 x 3
            convolutions and stages of 64 to 512.
        squeeze: end each block with squeeze and excitation.
        num_features: numbers in an embedding.
        dropout: share of the map that training sets to 0 before the linear layer.
    """

    embedding_weight = "output_layer.3.weight"
    small = {"blocks": (1, 1, 2, 1), "squeeze": True}

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        bottleneck: bool = False,
        squeeze: bool = False,
        *,
        num_features: int = 512,
        dropout: float = 0.0,
        **options,
    ):
        super().__init__(**options)
        check_counts("blocks", blocks, length=4)
        widths = (256, 512, 1024, 2048) if bottleneck else (64, 128, 256, 512)
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), PReLU(64)
        )
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(widths[3]),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(widths[3] * 7 * 7, num_features),
            nn.BatchNorm1d(num_features, affine=False),
        )
        body, channels_in = [], 64
        for channels, num_blocks in zip(widths, blocks, strict=True):
            for stride in [2] + [1] * (num_blocks - 1):
                body.append(Block(channels_in, channels, stride, bottleneck, squeeze))
                channels_in = channels
        self.body = nn.Sequential(*body)
        kaiming_init(self)

    def trunk(self, images: Tensor) -> Tensor:
        return self.run_blocks(self.body, in_sequence(self.input_layer, images))  # (N, 512 or 2048, 7, 7)

    def tail(self, maps: Tensor) -> Tensor:
        return in_sequence(self.output_layer, maps)
