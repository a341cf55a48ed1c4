"""IResNet, the ResNet of ArcFace and its insightface implementation (names r18 to r2060).

Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019,
https://arxiv.org/abs/1801.07698 (section 3.1; the block is that of Han et al., "Deep Pyramidal Residual
Networks", https://arxiv.org/abs/1610.02915). state_dict keys and shapes are those of arcface_torch.
"""

from torch import Tensor, nn

from .backbone import Backbone, check_counts
from .batch_norm import batch_norm, batch_norm_and_input, in_sequence
from .layers import PReLU


class Block(nn.Module):
    """BatchNorm, convolution, BatchNorm, PReLU, strided convolution, BatchNorm; a shortcut is around them."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        normalised, x = batch_norm_and_input(self.bn1, x)
        shortcut = x if self.downsample is None else in_sequence(self.downsample, x)
        x = batch_norm(self.bn2, self.conv1(normalised), self.prelu)
        return batch_norm(self.bn3, self.conv2(x), shortcut=shortcut)


def stage(channels_in: int, channels: int, num_blocks: int) -> nn.Sequential:
    """`num_blocks` blocks; the first halves the resolution."""
    return nn.Sequential(
        Block(channels_in, channels, stride=2),
        *(Block(channels, channels, stride=1) for _ in range(num_blocks - 1)),
    )


class IResNet(Backbone):
    """Four stages of 64, 128, 256 and 512 channels, then a linear layer over the whole 7 x 7 map.

    Args:
        blocks: blocks in each stage, each at least 1.
        num_features: numbers in an embedding.
        dropout: share of the map that training sets to 0 before the linear layer.
    """

    embedding_weight = "fc.weight"
    small = {"blocks": (1, 1, 2, 1)}

    def __init__(
        self, blocks: tuple[int, int, int, int], *, num_features: int = 512, dropout: float = 0.0, **options
    ):
        super().__init__(**options)
        check_counts("blocks", blocks, length=4)
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = PReLU(64)
        self.layer1 = stage(64, 64, blocks[0])
        self.layer2 = stage(64, 128, blocks[1])
        self.layer3 = stage(128, 256, blocks[2])
        self.layer4 = stage(256, 512, blocks[3])
        self.bn2 = nn.BatchNorm2d(512)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(512 * 7 * 7, num_features)
        self.features = nn.BatchNorm1d(num_features)
        self.features.weight.requires_grad = False  # as insightface: the scale of each feature stays 1

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)  # as insightface; a BatchNorm follows each

    def trunk(self, images: Tensor) -> Tensor:
        x = batch_norm(self.bn1, self.conv1(images), self.prelu)  # (N, 64, 112, 112)
        return self.run_blocks([*self.layer1, *self.layer2, *self.layer3, *self.layer4], x)  # (N, 512, 7, 7)

    def tail(self, maps: Tensor) -> Tensor:
        return self.features(self.fc(self.dropout(batch_norm(self.bn2, maps).flatten(1))))
