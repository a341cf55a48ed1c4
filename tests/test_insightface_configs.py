"""Config files as insightface writes them load here and mean the same training."""

import pytest
import torch

from configs import base
from helpers.job_files import AROFACE_WF4M, MS1MV3_R50, WF42M_PFC02, load, write_job
from losses import build_loss
from training.lr_scheduler import Schedule
from utils.config import get_config, verification_files


def test_insightface_config_of_ms1mv3_means_the_same_training(tmp_path):
    cfg = get_config(write_job(tmp_path, MS1MV3_R50))
    assert cfg.loss == "combined"
    assert cfg.loss_args == {"margin_list": (1.0, 0.5, 0.0), "gradient": "straight_through"}
    assert (cfg.precision, cfg.fp16) == ("fp16", True)
    assert (cfg.lr, cfg.lr_reference_batch, cfg.momentum, cfg.weight_decay) == (0.1, None, 0.9, 5e-4)
    assert (cfg.scheduler, cfg.poly_power, cfg.warmup_epoch, cfg.num_epoch) == ("poly", 1.0, 0, 20)
    assert not cfg.no_decay_norm_bias
    assert cfg.grad_clip == 5
    assert cfg.rec == cfg.val_root == "/train_tmp/ms1m-retinaface-t1"
    assert cfg.val_targets[1] == "/train_tmp/ms1m-retinaface-t1/cfp_fp.bin"


def test_insightface_config_of_wf42m_means_the_same_training(tmp_path):
    cfg = get_config(write_job(tmp_path, WF42M_PFC02))
    assert cfg.loss == "combined"
    assert cfg.loss_args == {
        "margin_list": (1.0, 0.0, 0.4),
        "gradient": "straight_through",
        "interclass_filtering_threshold": 0.4,
        "interclass_filtering": "zero",
    }
    assert (cfg.optimizer, cfg.lr, cfg.weight_decay, cfg.gradient_acc) == ("adamw", 0.001, 0.1, 2)
    assert (cfg.sample_rate, cfg.warmup_epoch, cfg.network) == (0.2, 4, "vit_b_dp005_mask_005")
    assert cfg.sampled_update == "dense"  # its decay and momentum move every centre
    assert get_config(write_job(tmp_path, WF42M_PFC02), ["sampled_update=sparse"]).sampled_update == "sparse"
    assert load("sample_rate=0.1").sampled_update == "sparse"
    assert load("sample_rate=1").sampled_update is None
    assert "wandb_key" not in cfg


def test_the_loss_of_an_insightface_config_has_its_margin_and_its_filter(tmp_path):
    arc, cos = (get_config(write_job(tmp_path, text)) for text in (MS1MV3_R50, WF42M_PFC02))
    theta, norms = torch.tensor([0.7]), torch.ones(1)
    arc_logit = build_loss(arc.loss, **arc.loss_args).own_logit(theta.cos(), norms, {})
    torch.testing.assert_close(arc_logit, 64 * (theta + 0.5).cos())
    filtering = build_loss(cos.loss, **cos.loss_args)
    torch.testing.assert_close(filtering.own_logit(theta.cos(), norms, {}), 64 * (theta.cos() - 0.4))
    others = filtering.other_logits(torch.tensor([[0.3, 0.5]]), theta, norms, {})
    torch.testing.assert_close(others, torch.tensor([[64 * 0.3, 0.0]]))


def test_insightface_s_warmup_of_minus_one_means_none():
    assert load("warmup_epoch=-1").warmup_epoch == 0


def test_combined_by_name_has_the_exact_gradient():
    cfg = load("loss=combined", "margin_list=1,0.3,0.2")
    assert cfg.loss_args == {"margin_list": (1.0, 0.3, 0.2)}


@pytest.mark.parametrize(("key", "off"), [(key, off) for key, (off, _) in base.INSIGHTFACE_ONLY.items()])
def test_a_setting_without_use_may_be_off_but_not_on(key, off):
    load(f"{key}={off}")
    with pytest.raises(ValueError, match=f"{key}=.* has no use here.*instead: "):
        load(f"{key}=true")


def test_a_file_that_asks_for_dali_gets_this_loader_and_one_line(tmp_path):
    cfg = get_config(write_job(tmp_path, MS1MV3_R50 + "config.dali = True\nconfig.dali_aug = True\n"))
    assert len(cfg.warnings) == 1
    assert "without the augmentations of dali_aug" in cfg.warnings[0]
    assert get_config(write_job(tmp_path, MS1MV3_R50)).warnings == ()
    with pytest.raises(ValueError, match="dali=True has no use here"):
        get_config(write_job(tmp_path, MS1MV3_R50), ["dali=true"])


def test_a_foreign_file_may_be_copied_into_configs(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.config.ROOT", tmp_path)
    (tmp_path / "configs").mkdir()
    cfg = get_config(write_job(tmp_path / "configs", MS1MV3_R50 + "config.dali = True\n"))
    assert cfg.may_lack_sets
    assert len(cfg.warnings) == 1


def test_positives_only_is_a_sample_rate(tmp_path):
    assert get_config(write_job(tmp_path, MS1MV3_R50 + "config.sample_rate = 0\n")).sample_rate == 0


def test_aroface_s_keys_become_its_settings_and_its_learning_rate_follows_the_ranks(tmp_path):
    cfg = get_config(write_job(tmp_path, AROFACE_WF4M))
    hyper = {"ratio": 0.75, "eta_scale": 0.1, "eta_theta": 0.3, "eta_t": 0.2}
    assert cfg.aroface == hyper | {"mixing": "independent", "exact_identity": False}
    assert (cfg.lr, cfg.lr_reference_batch) == (pytest.approx(0.1), 1024)
    assert Schedule(cfg, 100, 512).base_lr == pytest.approx(0.05)  # what its line gives on its four GPUs
    assert cfg.loss_args["gradient"] == "straight_through"
    literal = AROFACE_WF4M.replace("config.ngpus = 4\n", "").replace("config.ngpus", "4")
    assert (get_config(write_job(tmp_path, literal)).lr, cfg.aroface["ratio"]) == (0.05, 0.75)


def test_verification_sets_of_a_foreign_file_may_be_missing_unless_they_are_asked_for(tmp_path, caplog):
    (tmp_path / "lfw.bin").touch()
    path = write_job(tmp_path, MS1MV3_R50)
    caplog.set_level("INFO", "lqface")
    found = verification_files(get_config(path, [f"rec={tmp_path}"]))
    assert list(found) == ["lfw"]
    assert caplog.text.count("does not exist; it is left out") == 2
    with pytest.raises(FileNotFoundError, match=r"cfp_fp\.bin"):
        verification_files(get_config(path, [f"rec={tmp_path}", "val_targets=cfp_fp"]))
