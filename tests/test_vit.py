"""What transformers do in training: masks, dropped paths."""

import pytest
import torch

from helpers.backbone_cases import images, small


def tokens_in_blocks(backbone) -> list[int]:
    lengths = []
    backbone.blocks[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    return lengths


@pytest.mark.parametrize(("mask_ratio", "num_kept"), [(0.0, 144), (0.05, 136), (0.1, 129), (0.75, 36)])
def test_mask_ratio_is_the_share_of_tokens_that_the_blocks_miss(mask_ratio, num_kept):
    backbone = small("vit_t", mask_ratio=mask_ratio)
    lengths = tokens_in_blocks(backbone)
    backbone(images())
    backbone.eval()(images())
    assert lengths == [num_kept, 144]


def test_each_image_has_its_own_mask_and_lost_places_hold_the_mask_token():
    backbone = small("vit_t", mask_ratio=0.25, drop_path_rate=0.0)
    same = images(1).expand(6, -1, -1, -1)
    with torch.no_grad():
        backbone.mask_token.fill_(5.0)
        tokens = backbone.trunk(same)  # (6, 144, 64)
        whole = backbone.eval().trunk(same)
    lost = (tokens == 5.0).all(dim=2)
    assert lost.sum(dim=1).tolist() == [36] * 6
    assert len({tuple(row) for row in lost.tolist()}) == 6
    # Kept tokens are in their own places: each is nearest to what it is when attention sees all of them.
    similarity = torch.cdist(tokens[0][~lost[0]], whole[0])
    assert torch.equal(similarity.argmin(dim=1), (~lost[0]).nonzero().squeeze(1))


def test_without_masks_and_drop_path_identical_images_stay_identical():
    backbone = small("vit_t", mask_ratio=0.0, drop_path_rate=0.0)
    tokens = backbone.trunk(images(1).expand(4, -1, -1, -1))
    assert (tokens - tokens[0]).abs().max() < 1e-5
    tokens = small("vit_t", mask_ratio=0.0, drop_path_rate=0.5).trunk(images(1).expand(4, -1, -1, -1))
    assert (tokens - tokens[0]).abs().max() > 1e-3


def test_drop_path_skips_whole_samples_and_keeps_the_mean():
    block = small("vit_t", drop_path_rate=0.25).blocks[-1]
    torch.manual_seed(4)
    branch = block._some_samples(torch.ones(20_000, 2, 3))
    assert branch.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(branch.amax(dim=(1, 2)), branch.amin(dim=(1, 2)))
    assert branch.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(block.eval()._some_samples(torch.ones(3, 2, 3)), torch.ones(3, 2, 3))


def test_evaluation_draws_no_random_numbers():
    backbone = small("vit_t", mask_ratio=0.5, drop_path_rate=0.5, dropout=0.5).eval()
    state = torch.get_rng_state()
    backbone(images())
    assert torch.equal(torch.get_rng_state(), state)
