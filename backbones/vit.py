"""Vision transformers for faces, as insightface trains them on WebFace42M (names vit_t to vit_h).

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, https://arxiv.org/abs/2010.11929; stochastic
depth: Huang et al., ECCV 2016, https://arxiv.org/abs/1603.09382; masking: He et al., "Masked Autoencoders Are
Scalable Vision Learners", CVPR 2022, https://arxiv.org/abs/2111.06377. state_dict keys and shapes are
those of arcface_torch. There is no class token: the embedding is a linear map of all tokens.

Departures: `mask_ratio` is used (arcface_torch always masks 0.1). No precision is fixed here: autocast
chooses it, the residual stream stays float32, and the kernel of attention computes its softmax in float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbone import Backbone, check_counts

PATCH = 9  # pixels; 12 x 12 patches cover 108 of the 112 pixels, the last four are not used
NUM_TOKENS = (112 // PATCH) ** 2


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values without bias."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        # each (N, heads, L, width / heads)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers; between them it is four times as wide."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu6(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP, each after a LayerNorm and with a shortcut; training skips each at random.

    Args:
        drop_path: probability that a sample skips a branch; otherwise the branch is divided by
            1 - drop_path, so that its mean stays the same.
    """

    def __init__(self, width: int, num_heads: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.attn = Attention(width, num_heads)
        self.mlp = Mlp(width)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._some_samples(self.attn(self.norm1(x)))
        return x + self._some_samples(self.mlp(self.norm2(x)))

    def _some_samples(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        kept = torch.rand(len(branch), 1, 1, device=branch.device) < keep  # (N, 1, 1)
        return branch * kept / keep


class PatchEmbed(nn.Module):
    """One token per patch."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)  # (N, L, width)


class VisionTransformer(Backbone):
    """Patches of 9 pixels, `depth` transformer blocks, and two linear layers over all 144 tokens.

    Args:
        width: numbers in a token (arcface_torch's embed_dim).
        depth: number of blocks.
        num_heads: attention heads; they divide width.
        drop_path_rate: drop_path of the last block; it grows linearly from 0 at the first block.
        mask_ratio: share of the tokens that are masked in training, drawn anew for each image. The blocks see
            only the others, which saves time; the tail sees the learnt `mask_token` in the masked places.
        num_features: numbers in an embedding.
        dropout: share of the numbers in all tokens that training sets to 0 before the first linear layer.

    Raises:
        ValueError: drop_path_rate or mask_ratio outside [0, 1), or a width that num_heads does not divide.
    """

    embedding_weight = "feature.2.weight"
    small = {"width": 64, "depth": 3}

    def __init__(
        self,
        width: int,
        depth: int,
        num_heads: int = 8,
        drop_path_rate: float = 0.1,
        mask_ratio: float = 0.1,
        *,
        num_features: int = 512,
        dropout: float = 0.0,
        **options,
    ):
        super().__init__(**options)
        for setting, value in (("drop_path_rate", drop_path_rate), ("mask_ratio", mask_ratio)):
            if not 0 <= value < 1:
                raise ValueError(f"{setting} is a share in [0, 1), got {value}")
        for setting, value in (("width", width), ("depth", depth), ("num_heads", num_heads)):
            check_counts(setting, [value], length=1)
        if width % num_heads:
            raise ValueError(f"width {width} is not divisible by num_heads {num_heads}")
        self.num_kept = max(1, int(NUM_TOKENS * (1 - mask_ratio)))
        self.pos_embed = nn.Parameter(torch.empty(1, NUM_TOKENS, width))
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        # DistributedDataParallel waits for the gradient of every parameter that requires one.
        self.mask_token.requires_grad = self.num_kept < NUM_TOKENS
        self.patch_embed = PatchEmbed(width)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, drop_path=drop_path_rate * i / max(1, depth - 1)) for i in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.feature = nn.Sequential(
            nn.Linear(NUM_TOKENS * width, width, bias=False),
            nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, num_features, bias=False),
            nn.BatchNorm1d(num_features, eps=2e-5),
        )

        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def trunk(self, images: Tensor) -> Tensor:
        tokens = self.patch_embed(images) + self.pos_embed  # (N, L, width)
        if not self.training or self.num_kept == NUM_TOKENS:
            return self.norm(self.run_blocks(self.blocks, tokens))
        num_images, _, width = tokens.shape
        places = torch.rand(num_images, NUM_TOKENS, device=tokens.device).argsort(1)[:, : self.num_kept]
        places = places[:, :, None].expand(-1, -1, width)  # (N, num_kept, width)
        kept = self.norm(self.run_blocks(self.blocks, tokens.gather(1, places)))
        lost = self.mask_token.to(kept.dtype).expand(num_images, NUM_TOKENS, width)
        return lost.scatter(1, places, kept)

    def tail(self, tokens: Tensor) -> Tensor:
        return self.feature(self.dropout(tokens.flatten(1)))
